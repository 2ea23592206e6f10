//! Changes by netfilter's netlink: several in one step (a batch of `nfnetlink_rcv_batch`), or each for itself. Each is
//! acknowledged, so that what was not done is known.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use std::os::fd::AsRawFd;

use super::{
    BUFFER, HEADER, MessageHeader, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkError,
    NetlinkSocket, request,
};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NLM_F_CREATE`: make it if it is not there.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: behind those that are there.
pub(crate) const APPEND: u16 = 0x800;

/// One change that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct ChangeRequest {
    /// `NFT_MSG_*` or `IPCTNL_MSG_*`.
    pub message: u8,
    /// `nfgen_family`.
    pub family: u8,
    /// [`CREATE`] and so on.
    pub flags: u16,
    pub attributes: Vec<u8>,
}

impl ChangeRequest {
    fn bytes(&self, subsystem: u8, sequence: u32) -> Vec<u8> {
        let kind = u16::from_be_bytes([subsystem, self.message]);
        let mut body = vec![self.family, 0, 0, 0];
        body.extend_from_slice(&self.attributes);
        let flags = NLM_F_REQUEST | NLM_F_ACK | self.flags;
        request(kind, flags, sequence, &body)
    }
}

impl NetlinkSocket {
    /// Makes all of these changes in one step, or none.
    ///
    /// # Errors
    /// What the kernel said to the first that it refused.
    pub(crate) fn change_all(
        &mut self,
        subsystem: u8,
        changes: &[ChangeRequest],
    ) -> Result<(), NetlinkError> {
        let mark = [0, 0, 0, subsystem];
        let first = self.sequence.wrapping_add(1);
        let mut bytes = request(BATCH_BEGIN, NLM_F_REQUEST, first, &mark);
        let mut sequence = first;
        for change in changes {
            sequence = sequence.wrapping_add(1);
            bytes.extend(change.bytes(subsystem, sequence));
        }
        sequence = sequence.wrapping_add(1);
        bytes.extend(request(BATCH_END, NLM_F_REQUEST, sequence, &mark));
        self.sequence = sequence;
        send(self.file.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut left = changes.len();
        // A refusal of the whole has the sequence of its beginning, and comes first.
        self.acknowledged(|number, result| {
            if number.wrapping_sub(first) > sequence.wrapping_sub(first) {
                return Ok(left == 0);
            }
            result.map_err(NetlinkError::Refused)?;
            left = left.saturating_sub(usize::from(number != first));
            Ok(left == 0)
        })
    }

    /// Makes each of these changes by itself; how each went, in their order. Few at a time: their answers must fit the
    /// socket's buffer.
    ///
    /// # Errors
    /// When the answers are not whole.
    pub(crate) fn change_each(
        &mut self,
        subsystem: u8,
        changes: &[ChangeRequest],
    ) -> Result<Vec<Result<(), Errno>>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for change in changes {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(change.bytes(subsystem, self.sequence));
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        send(self.file.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut results = vec![None; changes.len()];
        let mut left = changes.len();
        self.acknowledged(|number, result| {
            let at = usize::try_from(number.wrapping_sub(first)).unwrap_or(usize::MAX);
            if let Some(place) = results.get_mut(at)
                && place.replace(result).is_none()
            {
                left -= 1;
            }
            Ok(left == 0)
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Takes acknowledgements until `each`, which is given the sequence number and the result, has all.
    fn acknowledged(
        &self,
        mut each: impl FnMut(u32, Result<(), Errno>) -> Result<bool, NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive(&mut buffer)?;
            let mut bytes = buffer.get(..length).unwrap_or_default();
            while !bytes.is_empty() {
                let (header, rest) = MessageHeader::read(bytes).ok_or(NetlinkError::Malformed)?;
                let body = bytes
                    .get(HEADER..header.length)
                    .ok_or(NetlinkError::Malformed)?;
                bytes = rest;
                if header.kind != NLMSG_ERROR {
                    continue;
                }
                let status = body.first_chunk().ok_or(NetlinkError::Malformed)?;
                let result = match i32::from_ne_bytes(*status) {
                    0 => Ok(()),
                    status => Err(Errno::from_raw(status.saturating_neg())),
                };
                if each(header.sequence, result)? {
                    return Ok(());
                }
            }
        }
    }
}
