//! A cache bounded by bytes: what was used longest ago goes first.

use std::rc::Rc;

/// Values by key, most recently used last.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: Vec<(K, Rc<V>, usize)>,
    budget: usize,
}

impl<K: PartialEq, V> Cache<K, V> {
    pub(super) fn new(budget: usize) -> Cache<K, V> {
        Cache { entries: Vec::new(), budget }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<Rc<V>> {
        let at = self.entries.iter().position(|(k, _, _)| k == key)?;
        let entry = self.entries.remove(at);
        let value = Rc::clone(&entry.1);
        self.entries.push(entry);
        Some(value)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Keeps `value`, which takes `bytes`, unless it alone is over the budget.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize) -> Rc<V> {
        let value = Rc::new(value);
        if bytes <= self.budget {
            let mut held: usize = self.entries.iter().map(|(_, _, b)| b).sum();
            while held + bytes > self.budget {
                held -= self.entries.remove(0).2;
            }
            self.entries.push((key, Rc::clone(&value), bytes));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_entry_goes_first() {
        let mut cache = Cache::new(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a").as_deref(), Some(&1));
        cache.put("c", 3, 4);
        assert_eq!(cache.get(&"b"), None);
        assert_eq!(cache.get(&"a").as_deref(), Some(&1));
        cache.put("large", 4, 11);
        assert_eq!((cache.get(&"large"), cache.get(&"c").as_deref()), (None, Some(&3)));
    }
}
