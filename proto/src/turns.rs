//! Tasks without a runtime: a simulation polls them.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use parking_lot::Mutex;

use crate::Wakes;

/// The tasks of a group made by [`Tasks::by_turns`](crate::tasks::Tasks::by_turns). The owner of this value gives each its turns.
/// Dropping it drops all of them where they are.
#[derive(Default)]
pub struct Turns {
    spawned: Spawned,
    tasks: BTreeMap<u64, Task>,
    last: u64,
}

/// Tasks that have not had a turn.
#[derive(Clone, Default)]
pub(crate) struct Spawned(Arc<Mutex<Vec<Work>>>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    work: Work,
    wakes: Wakes,
}

impl Turns {
    pub(crate) fn spawned(&self) -> Spawned {
        self.spawned.clone()
    }

    /// The numbers of the tasks that were woken or are new, in the order in which they were spawned.
    pub fn due(&mut self) -> impl Iterator<Item = u64> + use<'_> {
        for work in self.spawned.take() {
            self.last += 1;
            self.tasks.insert(self.last, Task { work, wakes: Wakes::default() });
        }
        self.tasks.iter().filter(|(_, task)| task.wakes.called()).map(|(number, _)| *number)
    }

    /// Polls the task, if it has not ended.
    pub fn poll(&mut self, number: u64) {
        if let Some(Task { work, wakes }) = self.tasks.get_mut(&number)
            && wakes.poll(|context| work.as_mut().poll(context)).is_ready()
        {
            self.tasks.remove(&number);
        }
    }
}

impl Spawned {
    pub(crate) fn add(&self, work: Work) {
        self.0.lock().push(work);
    }

    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // A task may hold its group, which holds what it has spawned.
        drop(self.spawned.take());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use crate::tasks::Tasks;

    #[test]
    fn tasks_run_in_their_turns_alone() {
        let (tasks, mut turns) = Tasks::by_turns();
        let (say, mut said) = mpsc::unbounded_channel();
        let (wake, mut woken) = mpsc::unbounded_channel::<()>();
        let (others, also_say) = (tasks.child(), say.clone());
        let inner = others.clone();
        others.spawn("first", async move {
            inner.spawn("second", async move { also_say.send("second").expect("heard") });
            while woken.recv().await.is_some() {
                say.send("first").expect("heard");
            }
        });
        assert_eq!(turns.due().collect::<Vec<_>>(), [1]);
        turns.poll(1);
        assert_eq!(turns.due().collect::<Vec<_>>(), [2], "spawned, and the first one waits");
        wake.send(()).expect("waits");
        assert_eq!(turns.due().collect::<Vec<_>>(), [1, 2]);
        turns.poll(2);
        turns.poll(1);
        assert_eq!((said.try_recv(), said.try_recv()), (Ok("second"), Ok("first")));
        others.stop();
        assert_eq!(turns.due().collect::<Vec<_>>(), [1], "the second one has ended");
        turns.poll(1);
        assert!(wake.send(()).is_err(), "it was dropped");
        assert_eq!(turns.due().count(), 0);
    }

    #[test]
    #[should_panic(expected = "task critical ended")]
    fn the_end_of_a_critical_task_is_a_panic() {
        let (tasks, mut turns) = Tasks::by_turns();
        tasks.spawn_critical("critical", async {});
        assert_eq!(turns.due().count(), 1);
        turns.poll(1);
    }
}
