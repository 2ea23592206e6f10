//! Who has a place at the port. There are few; a newcomer always gets one, and somebody else goes for it: of the peer who has as many as one
//! may have, or else of those who have the most, and came most often of late. Of these goes who has asked for nothing yet, then who has had his
//! answer and is idle, then who waits for one; of equals the oldest.
//!
//! So who holds many places loses his own to his own, and somebody who comes once is not kept waiting by him, nor sent away in the
//! middle of an answer by many who come again and again.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque, hash_map::Entry},
    mem,
    net::IpAddr,
    rc::Rc,
};

/// Places in all.
pub(super) const MOST: usize = 64;
/// Places that one peer, an address, may have.
pub(super) const MOST_OF_PEER: usize = 8;
/// How many comings are remembered, to know who comes often: enough that who asks every few seconds is told from a hundred who come
/// again as soon as they are sent away.
const REMEMBERED: usize = 4096;

/// The places that are taken, in the order in which they were, or became idle.
#[derive(Debug)]
pub(super) struct Places<C> {
    taken: Vec<Place<C>>,
    next: u64,
    comings: Comings,
}

/// Who came last, or asked once more.
#[derive(Debug, Default)]
struct Comings {
    /// The latest at the end.
    peers: VecDeque<IpAddr>,
    times: HashMap<IpAddr, usize>,
}

impl Comings {
    fn add(&mut self, peer: IpAddr) {
        if self.peers.len() == REMEMBERED
            && let Some(oldest) = self.peers.pop_front()
            && let Entry::Occupied(mut times) = self.times.entry(oldest)
        {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
        self.peers.push_back(peer);
        *self.times.entry(peer).or_default() += 1;
    }

    /// How often this one came.
    fn of(&self, peer: IpAddr) -> usize {
        self.times.get(&peer).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Place<C> {
    number: u64,
    peer: IpAddr,
    standing: Standing,
    close: C,
}

/// What goes on at a place. Who is the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has asked for nothing yet.
    Silent,
    /// It has had its answer, and has not asked again.
    Idle,
    /// It waits for an answer, or takes one.
    Asked,
}

/// Who has to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Displaced<C> {
    /// A connection of the newcomer's own peer.
    OfPeer(C),
    /// A connection of somebody who has as many as nobody else.
    OfAll(C),
}

impl<C> Places<C> {
    pub(super) fn new() -> Self {
        Self {
            taken: Vec::new(),
            next: 0,
            comings: Comings::default(),
        }
    }

    /// Takes the place from whoever has to go before `peer` can have one.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> Option<Displaced<C>> {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for place in &self.taken {
            *held.entry(place.peer).or_default() += 1;
        }
        if held.get(&peer).is_some_and(|held| *held >= MOST_OF_PEER) {
            let close = self.displace(|of| of == peer)?;
            return Some(Displaced::OfPeer(close));
        }
        if self.taken.len() < MOST {
            return None;
        }
        let shares = held
            .into_iter()
            .map(|(of, held)| (of, (held, self.comings.of(of))));
        let shares: HashMap<_, _> = shares.collect();
        let most = shares.values().max().copied()?;
        let close = self.displace(|of| shares.get(&of) == Some(&most))?;
        Some(Displaced::OfAll(close))
    }

    fn displace(&mut self, is_meant: impl Fn(IpAddr) -> bool) -> Option<C> {
        let places = self.taken.iter().enumerate();
        let meant = places.filter(|(_, place)| is_meant(place.peer));
        // Of equals the first, which is the oldest.
        let (at, _) = meant.min_by_key(|(_, place)| place.standing)?;
        Some(self.taken.remove(at).close)
    }

    /// The number of the next place.
    pub(super) const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The place is taken; `close` closes its connection.
    pub(super) fn take(&mut self, number: u64, peer: IpAddr, close: C) {
        self.comings.add(peer);
        self.taken.push(Place {
            number,
            peer,
            standing: Standing::Silent,
            close,
        });
    }

    /// Who has the place has asked for something. To ask once more counts as a coming, so that who asks often by one connection is known
    /// as one who comes often.
    fn asked(&mut self, number: u64) {
        let place = self.taken.iter_mut().find(|place| place.number == number);
        if let Some(place) = place {
            let before = mem::replace(&mut place.standing, Standing::Asked);
            let peer = place.peer;
            if before == Standing::Idle {
                self.comings.add(peer);
            }
        }
    }

    /// Who has the place has had the whole answer.
    fn idle(&mut self, number: u64) {
        let at = self.taken.iter().position(|place| place.number == number);
        if let Some(at) = at {
            let mut place = self.taken.remove(at);
            place.standing = Standing::Idle;
            // Behind the others: of those who are idle goes first who asked longest ago.
            self.taken.push(place);
        }
    }

    /// The place is free again, if it was not given away.
    fn free(&mut self, number: u64) {
        self.taken.retain(|place| place.number != number);
    }
}

/// Gives the place back when the connection has ended, however.
pub(super) struct TakenPlace<C> {
    pub(super) number: u64,
    pub(super) places: Rc<RefCell<Places<C>>>,
}

impl<C> TakenPlace<C> {
    /// It has asked for something.
    pub(super) fn asked(&self) {
        self.places.borrow_mut().asked(self.number);
    }

    /// It has had the whole answer, and may ask again.
    pub(super) fn idle(&self) {
        self.places.borrow_mut().idle(self.number);
    }
}

impl<C> Drop for TakenPlace<C> {
    fn drop(&mut self) {
        self.places.borrow_mut().free(self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Comes, and is known by its number.
    fn come(places: &mut Places<u64>, from: IpAddr) -> Option<Displaced<u64>> {
        let displaced = places.make_room(from);
        let number = places.number();
        places.take(number, from, number);
        displaced
    }

    #[test]
    fn of_one_peer_the_oldest_without_a_request_goes_first() {
        let mut places = Places::new();
        for _ in 0..MOST_OF_PEER {
            assert_eq!(come(&mut places, peer(1)), None);
        }
        places.asked(1);
        places.asked(2);
        assert_eq!(come(&mut places, peer(1)), Some(Displaced::OfPeer(3)));
        for number in 4..=9 {
            places.asked(number);
        }
        assert_eq!(
            come(&mut places, peer(1)),
            Some(Displaced::OfPeer(1)),
            "who all have asked: the oldest"
        );
        assert_eq!(come(&mut places, peer(2)), None, "others have theirs");
    }

    #[test]
    fn who_is_idle_goes_after_who_is_silent_and_before_who_takes_an_answer() {
        let mut places = Places::new();
        for number in 1..=8 {
            come(&mut places, peer(1));
            places.asked(number);
        }
        for number in [7, 3, 5] {
            places.idle(number);
        }
        let gone = |number| Some(Displaced::OfPeer(number));
        assert_eq!(come(&mut places, peer(1)), gone(7), "idle the longest");
        assert_eq!(come(&mut places, peer(1)), gone(9), "it is silent");
        places.asked(10);
        assert_eq!(come(&mut places, peer(1)), gone(3), "idle before 5");
        places.asked(11);
        places.asked(5);
        assert_eq!(come(&mut places, peer(1)), gone(1), "5 asks again");
    }

    #[test]
    fn who_asks_often_by_one_connection_goes_before_who_comes_seldom() {
        let mut places = Places::new();
        for number in 0..64 {
            come(&mut places, peer(number));
            places.asked(u64::from(number) + 1);
            places.idle(u64::from(number) + 1);
        }
        places.asked(40);
        places.idle(40);
        assert_eq!(come(&mut places, peer(100)), Some(Displaced::OfAll(40)));
    }

    #[test]
    fn of_many_peers_one_who_holds_most_loses_his() {
        let mut places = Places::new();
        assert_eq!(come(&mut places, peer(100)), None, "it has not asked yet");
        for number in 1..=9 {
            for _ in 0..if number == 9 { 7 } else { MOST_OF_PEER - 1 } {
                come(&mut places, peer(number));
            }
        }
        assert_eq!(places.taken.len(), MOST);
        for number in 2..=64 {
            places.asked(number);
        }
        assert_eq!(
            come(&mut places, peer(101)),
            Some(Displaced::OfAll(2)),
            "not the one who is alone, although only it has asked nothing"
        );
    }

    #[test]
    fn who_is_alone_among_many_who_are_alone() {
        let mut places = Places::new();
        for number in 0..64 {
            assert_eq!(come(&mut places, peer(number)), None);
        }
        places.asked(1);
        assert_eq!(come(&mut places, peer(64)), Some(Displaced::OfAll(2)));
    }

    #[test]
    fn who_asks_some_times_is_not_one_of_those_who_come_most() {
        let mut places = Places::new();
        for round in 0..3_400 {
            if round >= 3_000 && round % 50 == 0 {
                come(&mut places, peer(200));
                let number = places.next;
                places.asked(number);
            }
            come(&mut places, peer(u8::try_from(round % 100).unwrap_or(0)));
            let there = places.taken.iter().any(|place| place.peer == peer(200));
            assert!(round < 3_000 || there, "round {round}");
            if round >= 3_000 && round % 50 == 49 {
                // It has had its answer.
                places.taken.retain(|place| place.peer != peer(200));
            }
        }
    }

    #[test]
    fn comings_are_forgotten() {
        let mut comings = Comings::default();
        for round in 0..REMEMBERED + 2 {
            comings.add(peer(u8::from(round > 2)));
        }
        assert_eq!(comings.of(peer(0)), 1);
        comings.add(peer(1));
        assert_eq!((comings.of(peer(0)), comings.of(peer(1))), (0, REMEMBERED));
        assert_eq!((comings.times.len(), comings.peers.len()), (1, REMEMBERED));
    }

    #[test]
    fn who_comes_once_stays_beside_many_who_come_again_and_again() {
        let mut places = Places::new();
        let strangers = |round: u64| peer(u8::try_from(round % 100).unwrap_or(0));
        for round in 0..800 {
            come(&mut places, strangers(round));
            places.asked(round + 1);
        }
        come(&mut places, peer(200));
        for round in 0..800 {
            come(&mut places, strangers(round));
        }
        let stays = places.taken.iter().any(|place| place.peer == peer(200));
        assert!(stays, "it has asked for nothing yet, and is the oldest");
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_there_may_be(comings in prop::collection::vec((any::<u8>(), any::<bool>(), any::<bool>(), 0..80_u64), 0..500)) {
            let mut places = Places::new();
            for (from, asks, is_idle, leaves) in comings {
                let before = places.taken.len();
                let displaced = come(&mut places, peer(from % 20));
                prop_assert_eq!(places.taken.len(), before + usize::from(displaced.is_none()));
                let number = places.next;
                if asks {
                    places.asked(number);
                }
                if asks && is_idle {
                    places.idle(number);
                }
                places.free(number.saturating_sub(leaves + 1));
                prop_assert!(places.taken.len() <= MOST);
                for one in 0..20 {
                    let held = places.taken.iter().filter(|place| place.peer == peer(one)).count();
                    prop_assert!(held <= MOST_OF_PEER);
                }
                prop_assert_eq!(places.taken.last().map(|place| place.number), Some(number), "who came has a place");
            }
        }
    }
}
