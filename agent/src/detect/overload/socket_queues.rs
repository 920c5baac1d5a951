//! Accept queues of the sockets that share an address, by key. Nearly every address has one socket,
//! and a map of one takes four times the room.

use foldhash::HashMap;

use super::queue::AcceptQueue;

/// Accept queues by the key of their socket.
#[derive(Default)]
pub(super) struct SocketQueues {
    first: Option<Box<(u64, AcceptQueue)>>,
    others: HashMap<u64, AcceptQueue>,
}

impl SocketQueues {
    /// Returns the number of sockets.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    /// Returns whether there is no socket.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    /// Returns the queue of a socket, if it is known.
    pub(super) fn get(&self, key: u64) -> Option<&AcceptQueue> {
        match self.first.as_deref() {
            Some((first, queue)) if *first == key => Some(queue),
            _ => self.others.get(&key),
        }
    }

    /// Returns the queue of a socket, a new one if it is not known.
    pub(super) fn get_or_new(&mut self, key: u64) -> &mut AcceptQueue {
        if self.is_empty() {
            self.first = Some(Box::new((key, AcceptQueue::default())));
        }
        match self.first.as_deref_mut() {
            Some((first, queue)) if *first == key => queue,
            _ => self.others.entry(key).or_default(),
        }
    }

    /// Iterates over the queues of all sockets, in any order.
    pub(super) fn values(&self) -> impl Iterator<Item = &AcceptQueue> {
        self.first.as_deref().map(|(_, queue)| queue).into_iter().chain(self.others.values())
    }

    /// Forgets the sockets for which this is false.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&AcceptQueue) -> bool) {
        self.first.take_if(|first| !is_kept(&first.1));
        self.others.retain(|_, queue| is_kept(queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_queue_until_it_is_gone() {
        let mut queues = SocketQueues::default();
        for key in [5, 3, 9, 3] {
            queues.get_or_new(key);
        }
        assert_eq!((queues.len(), queues.values().count()), (3, 3));
        assert!([3, 5, 9].iter().all(|key| queues.get(*key).is_some()));
        assert!(queues.get(4).is_none());
        queues.retain(|_| false);
        assert!(queues.is_empty() && queues.get(5).is_none());
        queues.get_or_new(4);
        assert_eq!((queues.len(), queues.get(4).is_some()), (1, true));
    }
}
