//! Which blocks leave the device first: those whose next use is farthest, as far as it is known.
//!
//! A block that no planned work names goes before one that some work names. Of the former the least recently used goes first, of the
//! latter the one whose work comes last. Before them all go unnamed blocks of holders that have more than their share of the device,
//! or that were not used for a while: who works within a share is not pushed out by who does not.
//!
//! Knows ranks and times; knows nothing of buffers, sessions or how a block is moved.

use crate::dispatch::block::Holder;
use crate::map::Map;

/// A block not used for so long is nobody's working set.
const COLD_NS: u64 = 1_000_000_000;

/// A block on the device that could leave it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Its place among all blocks.
    pub slot: u32,
    /// Who holds it.
    pub holder: Holder,
    /// Its size.
    pub bytes: u64,
    /// When a launch used it last, or when it was made.
    pub used_ns: u64,
    /// How much work comes before a planned work that reads it; `None` where none does.
    pub planned: Option<u64>,
}

/// In the order of leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nothing planned reads it, and its holder has more than a share, or it is cold: by when it was used.
    Spare(u64),
    /// Nothing planned reads it: by when it was used.
    Unnamed(u64),
    /// Something planned reads it: the farthest first.
    Named(std::cmp::Reverse<u64>),
}

/// The `most` that leave first, in order, of a device of `capacity` bytes.
pub fn first_to_leave(
    mut standings: Vec<Standing>,
    most: usize,
    capacity: u64,
    now_ns: u64,
) -> Vec<Standing> {
    let mut held: Map<Holder, u64> = Map::default();
    for standing in &standings {
        *held.entry(standing.holder).or_default() += standing.bytes;
    }
    let share = capacity / held.len().max(1) as u64;
    let rank = |standing: &Standing| {
        let over = held.get(&standing.holder).is_some_and(|&has| has > share);
        let cold = now_ns.saturating_sub(standing.used_ns) > COLD_NS;
        match standing.planned {
            Some(before) => Rank::Named(std::cmp::Reverse(before)),
            None if over || cold => Rank::Spare(standing.used_ns),
            None => Rank::Unnamed(standing.used_ns),
        }
    };
    // The slot makes the order one and the same for equal ranks.
    let key = |standing: &Standing| (rank(standing), standing.slot);
    if most < standings.len() {
        standings.select_nth_unstable_by_key(most, key);
        standings.truncate(most);
    }
    standings.sort_unstable_by_key(key);
    standings
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensord_shm::control::Level;

    use crate::account::Account;

    const SECOND: u64 = 1_000_000_000;

    fn standing(slot: u32, holder: Holder, used_ns: u64, planned: Option<u64>) -> Standing {
        Standing {
            slot,
            holder,
            bytes: 10,
            used_ns,
            planned,
        }
    }

    fn order(standings: &[Standing], capacity: u64, now_ns: u64) -> Vec<u32> {
        let all = first_to_leave(standings.to_vec(), standings.len(), capacity, now_ns);
        let slots: Vec<u32> = all.iter().map(|standing| standing.slot).collect();
        for most in 0..slots.len() {
            let some = first_to_leave(standings.to_vec(), most, capacity, now_ns);
            let some: Vec<u32> = some.iter().map(|standing| standing.slot).collect();
            assert_eq!(some, slots[..most], "the first of them are the same");
        }
        slots
    }

    #[test]
    fn the_least_recently_used_leaves_first_and_the_next_needed_last() {
        let one = Holder::NOBODY;
        let standings = [
            standing(0, one, 50, Some(3)),
            standing(1, one, 40, None),
            standing(2, one, 10, Some(900)),
            standing(3, one, 30, None),
            standing(4, one, 20, Some(0)),
        ];
        assert_eq!(order(&standings, 100, 60), [3, 1, 2, 0, 4]);
    }

    #[test]
    fn who_has_more_than_a_share_goes_before_who_works_within_his() {
        let accounts = [(); 2].map(|()| Account::new(Level::Tenant, None));
        let [large, small] = [Holder::of(&accounts[0]), Holder::of(&accounts[1])];
        let mut standings: Vec<Standing> = (0..4)
            .map(|slot| standing(slot, large, 500 + u64::from(slot), None))
            .collect();
        standings.push(standing(9, small, 100, None));
        assert_eq!(order(&standings, 50, 1_000), [0, 1, 2, 3, 9]);
        assert_eq!(
            order(&standings, 50, 3 * SECOND),
            [9, 0, 1, 2, 3],
            "what is cold is nobody's working set"
        );
        assert_eq!(
            order(&standings, 500, 1_000),
            [9, 0, 1, 2, 3],
            "where both are within their share, time alone counts"
        );
    }
}
