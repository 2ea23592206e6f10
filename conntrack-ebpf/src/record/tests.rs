use proptest::prelude::*;

use super::*;

/// The bytes of an insert record, written by offset as the eBPF side lays them out.
fn insert_bytes() -> Vec<u8> {
    let mut bytes = vec![0u8; size_of::<InsertRecord>()];
    bytes[0] = VERSION;
    bytes[1] = Kind::Insert as u8;
    bytes[4..8].copy_from_slice(&4_026_531_840_u32.to_ne_bytes());
    bytes[8..16].copy_from_slice(&77_u64.to_ne_bytes());
    bytes[16..20].copy_from_slice(&64_u32.to_ne_bytes());
    bytes[20..24].copy_from_slice(&1_u32.to_ne_bytes());
    bytes[24..28].copy_from_slice(&[10, 0, 0, 1]);
    bytes[40..42].copy_from_slice(&1234_u16.to_be_bytes());
    bytes[42..44].copy_from_slice(&2_u16.to_ne_bytes());
    bytes[44..48].copy_from_slice(&[10, 0, 0, 2]);
    bytes[60..62].copy_from_slice(&53_u16.to_be_bytes());
    bytes[62] = 17;
    bytes[104..112].copy_from_slice(&99_u64.to_ne_bytes());
    bytes[112..116].copy_from_slice(&3_u32.to_ne_bytes());
    bytes[116..118].copy_from_slice(&5_u16.to_ne_bytes());
    bytes
}

#[test]
fn insert_is_read_back_field_by_field() {
    let Ok(View::Insert(record)) = View::parse(&insert_bytes()) else {
        panic!("not an insert record");
    };
    assert_eq!(record.header.netns, 4_026_531_840);
    assert_eq!(record.header.time_ns, 77);
    assert_eq!(record.header.weight, 64);
    assert_eq!(record.header.cpu, 1);
    assert_eq!(record.original.src[0].to_ne_bytes(), [10, 0, 0, 1]);
    assert_eq!(record.original.src_port, 1234_u16.to_be());
    assert_eq!(record.original.l3num, 2);
    assert_eq!(record.original.dst[0].to_ne_bytes(), [10, 0, 0, 2]);
    assert_eq!(record.original.dst_port, 53_u16.to_be());
    assert_eq!(record.original.protonum, 17);
    assert_eq!(
        record.origin,
        Origin {
            cgroup: 99,
            ifindex: 3,
            zone: 5,
            owner: 0
        }
    );
}

#[test]
fn every_cut_is_refused() {
    let bytes = insert_bytes();
    for length in 0..bytes.len() {
        assert_eq!(
            View::parse(&bytes[..length]),
            Err(Malformed::Length(length))
        );
    }
}

#[test]
fn other_versions_and_kinds_are_refused() {
    let mut bytes = insert_bytes();
    bytes[0] = VERSION + 1;
    assert_eq!(View::parse(&bytes), Err(Malformed::Version(VERSION + 1)));
    bytes[0] = VERSION;
    bytes[1] = 9;
    assert_eq!(View::parse(&bytes), Err(Malformed::Kind(9)));
}

#[test]
fn reasons_map_both_ways() {
    for reason in DropReason::ALL {
        assert_eq!(DropReason::from_number(reason as u8), Some(reason));
    }
    assert_eq!(DropReason::from_number(0), None);
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _: Result<View, Malformed> = View::parse(&bytes);
    }
}
