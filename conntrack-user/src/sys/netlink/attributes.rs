//! Attributes (`struct nlattr`): reading and writing them.

/// The flags of an attribute's type: nested, network byte order.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

/// The flag of an attribute that has attributes inside.
const NESTED: u16 = 0x8000;

/// Appends an attribute. A value of more than 65,000 bytes is cut off: no attribute of ours has that many.
pub(crate) fn put(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = value.get(..65_000).unwrap_or(value);
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    attributes.extend_from_slice(&length.to_ne_bytes());
    attributes.extend_from_slice(&kind.to_ne_bytes());
    attributes.extend_from_slice(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
}

/// Appends an attribute with the attributes that `fill` puts inside.
pub(crate) fn put_nested(attributes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inside = Vec::new();
    fill(&mut inside);
    put(attributes, kind | NESTED, &inside);
}

/// Appends an attribute whose value is a string with its zero byte. A string of 65,000 bytes or more
/// is cut off: no name of the kernel has that many.
pub(crate) fn put_string(attributes: &mut Vec<u8>, kind: u16, text: &str) {
    let text = text.as_bytes().get(..64_999).unwrap_or(text.as_bytes());
    put(attributes, kind, &[text, &[0]].concat());
}

/// Walks `struct nlattr`s; ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes inside of a nested one, of which this is the value.
    pub(crate) fn nested(value: &'a [u8]) -> Self {
        Self { rest: value }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; 4] = self.rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_FLAGS;
        let value = self.rest.get(4..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}
