//! Memory on a small device: what leaves comes back as it was, nothing of a tenant reaches another, and everything is given back.

use tensord_cpu::{CpuBackend, CpuConfig};
use tensord_shm::control::{Level, Resource};

use super::*;

const KIB: u64 = 1 << 10;

/// A device of 64 KiB beside as much host memory as is asked for, a tenant's account for each of two tenants.
struct Small {
    backend: CpuBackend,
    memory: Memory,
    accounts: [Rc<Account>; 2],
}

fn nobody(_: &mut dyn FnMut(&Block, u64)) {}

impl Small {
    fn new(spill_bytes: u64) -> Small {
        let backend = CpuBackend::new(CpuConfig {
            threads: 1,
            memory_bytes: 64 * KIB,
            ..CpuConfig::default()
        });
        let backend = backend.expect("one thread");
        Small {
            memory: Memory::new(&backend, spill_bytes),
            backend,
            accounts: [(); 2].map(|()| Account::new(Level::Tenant, None)),
        }
    }

    fn alloc(&mut self, tenant: usize, bytes: u64) -> Result<Rc<Block>, Lack> {
        self.memory.now_ns += 1;
        let owner = (TenantId(tenant as u32), &self.accounts[tenant]);
        let memory = &mut self.memory;
        memory.alloc(&mut self.backend, owner, bytes, &nobody)
    }

    /// A block full of one number.
    fn filled(&mut self, tenant: usize, bytes: u64, with: u8) -> Rc<Block> {
        let block = self.alloc(tenant, bytes).expect("there is room");
        self.fill(&block, with);
        block
    }

    fn fill(&mut self, block: &Block, with: u8) {
        let all = (0, block.bytes);
        let written = self
            .memory
            .write(&mut self.backend, block, all, &mut |_, to| to.fill(with));
        written.expect("all of it");
    }

    fn content(&mut self, block: &Block) -> Vec<u8> {
        let mut content = Vec::new();
        let all = (0, block.bytes);
        let read = self
            .memory
            .read(&mut self.backend, block, all, &mut |_, piece| {
                content.extend_from_slice(piece)
            });
        read.expect("all of it");
        content
    }

    fn bring(&mut self, block: &Rc<Block>) -> Result<Pinned, Lack> {
        self.memory.now_ns += 1;
        let pinned = Pinned::new(Rc::clone(block));
        let leaving = Leaving::Anybody(&nobody);
        self.memory.bring(&mut self.backend, &pinned, leaving)?;
        Ok(pinned)
    }
}

#[test]
fn what_leaves_comes_back_as_it_was_and_all_is_given_back() {
    let mut small = Small::new(1 << 20);
    let blocks: Vec<Rc<Block>> = (0..64).map(|k| small.filled(0, 4 * KIB, k)).collect();
    assert!(small.memory.bytes <= 64 * KIB, "{}", small.memory.bytes);
    assert_eq!(
        small.memory.bytes + small.memory.spilled_bytes,
        64 * 4 * KIB
    );
    for round in 0..3 {
        for (k, block) in blocks.iter().enumerate() {
            if round > 0 {
                drop(small.bring(block).expect("one block has room"));
            }
            assert_eq!(small.content(block), vec![k as u8; 4 * KIB as usize]);
        }
    }
    assert_eq!(
        small.accounts[0].used(Resource::DeviceMemory),
        64 * 4 * KIB,
        "what is held counts wherever it lies"
    );
    drop(blocks);
    small.memory.collect(&mut small.backend);
    let memory = &small.memory;
    assert_eq!((memory.bytes, memory.spilled_bytes), (0, 0));
    assert_eq!(
        (
            memory.host_bytes(),
            small.accounts[0].used(Resource::DeviceMemory)
        ),
        (0, 0)
    );
}

#[test]
fn what_was_copied_out_once_leaves_without_a_copy() {
    let mut small = Small::new(1 << 20);
    let blocks: Vec<Rc<Block>> = (0..32).map(|k| small.filled(0, 4 * KIB, k)).collect();
    for block in blocks.iter().chain(&blocks) {
        drop(small.bring(block).expect("one block has room"));
    }
    let before = small.memory.moved;
    for block in blocks.iter().chain(&blocks) {
        drop(small.bring(block).expect("one block has room"));
    }
    let moved = small.memory.moved.since(before);
    assert!(moved.in_bytes > 0 && moved.left_bytes == moved.in_bytes);
    assert_eq!(moved.copied_bytes, moved.in_bytes, "nothing is copied out");
    // Who is written anew has no copy any more.
    let resident = blocks.iter().find(|block| block.is_resident());
    let written = Rc::clone(resident.expect("the device holds some"));
    small.fill(&written, 99);
    for block in blocks.iter().filter(|block| !Rc::ptr_eq(block, &written)) {
        drop(small.bring(block).expect("one block has room"));
    }
    assert!(!written.is_resident());
    assert_eq!(small.content(&written), vec![99; 4 * KIB as usize]);
}

#[test]
fn a_pinned_block_stays_and_what_does_not_fit_beside_it_has_no_room() {
    let mut small = Small::new(1 << 20);
    let pinned: Vec<Pinned> = (0..15)
        .map(|k| Pinned::new(small.filled(0, 4 * KIB, k)))
        .collect();
    let other = small.filled(0, 4 * KIB, 77);
    let held = small.bring(&other).expect("the last place");
    assert_eq!(small.alloc(0, 4 * KIB).err(), Some(Lack::Room));
    assert!(pinned.iter().all(|block| block.is_resident()));
    drop(held);
    small.memory.may_leave_again();
    small.alloc(0, 4 * KIB).expect("the one that may leave did");
    assert!(!other.is_resident() && pinned.iter().all(|block| block.is_resident()));
}

#[test]
fn without_host_memory_nothing_leaves() {
    let mut off = Small::new(0);
    let _held: Vec<Rc<Block>> = (0..16).map(|k| off.filled(0, 4 * KIB, k)).collect();
    assert_eq!(off.alloc(0, 4 * KIB).err(), Some(Lack::Room));
    // Two blocks, and the sixteenth that is for changing places.
    let mut little = Small::new(9 * KIB);
    let blocks: Vec<Rc<Block>> = (0..18).map(|k| little.filled(0, 4 * KIB, k)).collect();
    assert_eq!(little.alloc(0, 4 * KIB).err(), Some(Lack::Room));
    assert_eq!(little.memory.host_bytes(), 8 * KIB);
    drop(blocks);
    little.alloc(0, 4 * KIB).expect("all was let go");
}

#[test]
fn copies_of_what_is_on_the_device_make_room_for_what_is_not() {
    let mut small = Small::new(24 * KIB);
    let blocks: Vec<Rc<Block>> = (0..20).map(|k| small.filled(0, 4 * KIB, k)).collect();
    for round in 0..3 {
        for (k, block) in blocks.iter().enumerate() {
            drop(small.bring(block).expect("copies are let go"));
            assert_eq!(
                small.content(block),
                vec![k as u8; 4 * KIB as usize],
                "{round}"
            );
            assert!(small.memory.host_bytes() <= 24 * KIB);
        }
    }
}

#[test]
fn nothing_of_a_tenant_reaches_another_by_device_or_host_memory() {
    let mut small = Small::new(1 << 20);
    let secret: Vec<Rc<Block>> = (0..32).map(|_| small.filled(0, 4 * KIB, 0xaa)).collect();
    drop(secret);
    let mut mine = Vec::new();
    for _ in 0..32 {
        let owner = (TenantId(1), &small.accounts[1]);
        let made = small
            .memory
            .alloc_aside(&mut small.backend, owner, 4 * KIB)
            .expect("there is room");
        assert_eq!(small.content(&made), vec![0; 4 * KIB as usize]);
        mine.push(made);
    }
    assert!(mine.iter().any(|block| block.is_resident()));
    assert!(mine.iter().any(|block| !block.is_resident()));
    for block in &mine {
        drop(small.bring(block).expect("one block has room"));
        assert_eq!(small.content(block), vec![0; 4 * KIB as usize]);
    }
}

#[test]
fn what_a_planned_work_reads_next_stays() {
    let mut small = Small::new(1 << 20);
    let blocks: Vec<Rc<Block>> = (0..16).map(|k| small.filled(0, 4 * KIB, k)).collect();
    // The oldest is read next, and the newest by nobody.
    let planned = blocks[..15].to_vec();
    let upcoming = move |visit: &mut dyn FnMut(&Block, u64)| {
        planned
            .iter()
            .zip(0u64..)
            .for_each(|(block, before)| visit(block, before))
    };
    let owner = (TenantId(0), &small.accounts[0]);
    let alloc = |memory: &mut Memory, backend: &mut CpuBackend| {
        memory
            .alloc(backend, owner, 4 * KIB, &upcoming)
            .map(Pinned::new)
    };
    let first = alloc(&mut small.memory, &mut small.backend);
    assert!(!blocks[15].is_resident(), "nobody reads it");
    let second = alloc(&mut small.memory, &mut small.backend);
    assert!(!blocks[14].is_resident(), "it is read last");
    assert!(blocks[..14].iter().all(|block| block.is_resident()));
    drop((first, second));
}
