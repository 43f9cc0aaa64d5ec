//! Storage nodes that come, lose their disk, or come back at another address.

use std::{fs, time::Duration};

use super::{Cluster, ClusterError, Role, plan::PlannedNode};

/// How long a node with an empty disk may take to say which command it waits for, and a node to end.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts a storage node with an empty disk at a spare address, and waits until it says which command it waits for.
    pub async fn newcomer(&mut self) -> Result<usize, ClusterError> {
        let (planned, place) = self.spare()?;
        let data = self.data.join(&planned.name);
        // A node that has left was there before.
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data).map_err(ClusterError::io(&data))?;
        let node = self.node(planned, place)?;
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.newest = Some(at);
        self.nodes[at].start()?;
        self.nodes[at].wait_until_it_says("carillon cluster add", PATIENCE).await?;
        Ok(at)
    }

    /// The next spare node, and its place in the network; when all are in use, that of a storage node that has left.
    fn spare(&mut self) -> Result<(PlannedNode, usize), ClusterError> {
        let number = self.spares_taken;
        if let Some(spare) = self.plan.spares.get(number).cloned() {
            self.spares_taken += 1;
            return Ok((spare, self.plan.nodes.len() + number));
        }
        let in_use = |place: usize, name: &str| {
            let mut nodes = self.nodes.iter().filter(|node| !node.retired);
            nodes.any(|node| node.place == place || node.planned.name == name)
        };
        let free =
            |(place, planned): &(usize, &PlannedNode)| planned.role == Role::Storage && !in_use(*place, &planned.name);
        let free = self.plan.places().enumerate().find(free).map(|(place, planned)| (planned.clone(), place));
        free.ok_or(ClusterError::Without("another spare address"))
    }

    /// The disk of a storage node is gone with the node: it starts with an empty one, and says which command it waits for.
    pub async fn lose_disk(&mut self, at: usize) -> Result<(), ClusterError> {
        self.nodes[at].kill();
        let data = self.data.join(self.nodes[at].name());
        fs::remove_dir_all(&data).map_err(ClusterError::io(&data))?;
        fs::create_dir_all(&data).map_err(ClusterError::io(&data))?;
        self.newest = Some(at);
        self.nodes[at].start()?;
        self.nodes[at].wait_until_it_says("carillon cluster replace", PATIENCE).await
    }

    /// Stops a storage node in order and starts it at a spare address.
    pub async fn readdress(&mut self, at: usize) -> Result<(), ClusterError> {
        self.nodes[at].signal("TERM")?;
        self.nodes[at].wait_end(PATIENCE).await?;
        let mut planned = self.nodes[at].planned.clone();
        let (spare, place) = self.spare()?;
        planned.ip = spare.ip;
        self.nodes[at] = self.node(planned, place)?;
        self.newest = Some(at);
        self.nodes[at].start()
    }

    /// A storage node that has left the cluster says so, and is stopped.
    pub async fn retire(&mut self, at: usize) -> Result<(), ClusterError> {
        self.nodes[at].wait_until_it_says("has left the cluster", PATIENCE).await?;
        self.nodes[at].signal("TERM")?;
        self.nodes[at].wait_end(PATIENCE).await?;
        self.nodes[at].retired = true;
        Ok(())
    }
}
