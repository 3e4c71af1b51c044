//! The hash map of the engine's hot paths: a fast hash with a seed of its own for each map.
//!
//! For keys of any origin: the seed keeps who chooses keys from choosing collisions.

use std::collections::HashMap;

/// See the file's head.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
