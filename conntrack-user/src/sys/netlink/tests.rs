//! Made-up answers of the kernel, and bytes that are none.

use std::process::{Command, ExitStatus};

use proptest::prelude::*;

use super::*;

/// Runs `ip` with these words.
pub(in crate::sys) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(
        status.as_ref().is_ok_and(ExitStatus::success),
        "`ip {words}`: {status:?} (help: run as root; apt-get install iproute2)"
    );
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(HEADER + body.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

type ReadMessage = (u16, Vec<(u16, Vec<u8>)>);

/// The `res_id` after which the reader has enough.
const ENOUGH: u16 = 0x0e0e;

fn read(bytes: &[u8]) -> (Result<DumpEnd, NetlinkError>, Vec<ReadMessage>) {
    let mut parts = Vec::new();
    let result = read_answer(bytes, 7, FAMILY_HEADER, &mut |part: DumpPart<'_>| {
        let resource = part
            .header
            .get(2..4)
            .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        let attributes = part
            .attributes
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        parts.push((resource, attributes));
        if resource == ENOUGH {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    (result, parts)
}

#[test]
fn parts_and_their_attributes() {
    let mut body = vec![0, 0, 0, 3];
    // Five bytes, padded to eight; then a nested flag that is not part of the type.
    body.extend([9_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
    body.extend([1, 2, 3, 4, 5, 0, 0, 0]);
    body.extend([8_u16.to_ne_bytes(), 0x800a_u16.to_ne_bytes()].concat());
    body.extend([0, 0, 1, 0]);
    let mut bytes = message(0x0104, 2, 6, b"of an earlier question");
    bytes.extend(message(0x0104, 2, 7, &body));
    let (result, parts) = read(&bytes);
    assert_eq!(result.unwrap(), DumpEnd::default());
    assert_eq!(
        parts,
        [(3, vec![(2, vec![1, 2, 3, 4, 5]), (10, vec![0, 0, 1, 0])])]
    );

    bytes.extend(message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes()));
    assert!(read(&bytes).0.unwrap().last);
}

#[test]
fn a_change_meanwhile_is_told_and_does_not_end_the_list() {
    let mut bytes = message(0x0104, 2, 7, &[0; 4]);
    bytes.extend(message(0x0104, 2 | NLM_F_DUMP_INTR, 7, &[0; 4]));
    bytes.extend(message(0x0104, 2, 7, &[0; 4]));
    bytes.extend(message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes()));
    let (result, parts) = read(&bytes);
    let read = result.unwrap();
    assert!(read.interrupted && read.last && !read.stopped);
    assert_eq!(parts.len(), 3);
}

#[test]
fn who_has_enough_is_told_no_more() {
    let mut bytes = message(0x0104, 2, 7, &[0; 4]);
    bytes.extend(message(0x0104, 2, 7, &[0, 0, 0x0e, 0x0e]));
    bytes.extend(message(0x0104, 2, 7, &[0; 4]));
    let (result, parts) = read(&bytes);
    assert!(result.unwrap().stopped);
    assert_eq!(parts.len(), 2);
}

#[test]
fn refusals_are_errors() {
    let refused = message(NLMSG_ERROR, 0, 7, &(-1_i32).to_ne_bytes());
    assert!(matches!(
        read(&refused).0,
        Err(NetlinkError::Refused(Errno::EPERM))
    ));
    let late = message(NLMSG_DONE, 2, 7, &(-12_i32).to_ne_bytes());
    assert!(matches!(
        read(&late).0,
        Err(NetlinkError::Refused(Errno::ENOMEM))
    ));
    let cut = &message(0x0104, 2, 7, &[0; 40])[..30];
    assert!(matches!(read(cut).0, Err(NetlinkError::Malformed)));
    let short = message(0x0104, 2, 7, &[0; 2]);
    assert!(matches!(read(&short).0, Err(NetlinkError::Malformed)));
}

#[test]
fn the_kernel_refuses_what_it_does_not_know() {
    // There is no subsystem 0, so nothing is loaded by asking for it.
    let refused = NetlinkSocket::netfilter()
        .unwrap()
        .dump(0, 100, 0, &[], |_| ());
    assert!(
        matches!(refused, Err(NetlinkError::Refused(_))),
        "{refused:?}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // Whoever waits for the end of an answer must see it where the reader stops.
        let end = ends(&bytes, 7);
        if let Ok(read) = read(&bytes).0 {
            prop_assert!(!read.last || end);
        }
    }

    #[test]
    fn a_flipped_byte_is_read(at in 0..96_usize, with: u8) {
        let mut body = vec![0, 0, 0, 1];
        for kind in 2..8_u16 {
            body.extend([8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat());
            body.extend([0, 0, 0, 9]);
        }
        let mut bytes = message(0x0104, 2, 7, &body);
        bytes.extend(message(NLMSG_DONE, 2, 7, &[0; 4]));
        let at = at % bytes.len();
        bytes[at] = with;
        prop_assert!(read(&bytes).1.len() <= 2);
    }
}

#[test]
fn a_question_has_its_family_and_attributes() {
    let mut attributes = Vec::new();
    put_string(&mut attributes, 1, "filter");
    assert_eq!(attributes.len(), 12, "padded");
    let body = [&[2, 0, 0, 0], attributes.as_slice()].concat();
    let bytes = request(0x0a07, NLM_F_REQUEST | NLM_F_DUMP, 9, &body);
    let (header, rest) = MessageHeader::read(&bytes).expect("a header");
    assert_eq!((header.length, header.sequence), (32, 9));
    assert!(rest.is_empty());
    assert_eq!(bytes[HEADER], 2);
    let written: Vec<_> = Attributes::nested(&bytes[HEADER + FAMILY_HEADER..]).collect();
    assert_eq!(written, [(1, b"filter\0".as_slice())]);
}
