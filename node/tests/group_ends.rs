//! The account of a group's owner ends, and what the operator may do with groups.

mod support;

use std::time::{Duration, Instant};

use carillon_client::{Change, Client, ClientConfig, Credential, Event, Events};
use carillon_proto::{
    GroupId, TimelineId,
    pb::client::{
        ChangeMembers, CreateGroup, Direction, MembersChange, ReadMembers, Role, group_change::What,
        members_change::Kind,
    },
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

struct Device {
    client: Client,
    events: Events,
    /// Changes of members of groups that have come: the group, the sender, and the change.
    heard: Vec<(GroupId, String, MembersChange)>,
    _tasks: Tasks,
}

impl Device {
    async fn enter(cluster: &Cluster, gateways: &[usize], user: &str) -> Self {
        let credential = Credential::Token(cluster.token(user));
        let addresses = gateways.iter().map(|gateway| cluster.addresses[*gateway].clone()).collect();
        let tasks = Tasks::new();
        let (client, events) =
            Client::open(ClientConfig::new(addresses, user, "phone", credential), &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        Self { client, events, heard: Vec::new(), _tasks: tasks }
    }

    /// The first change of members of the group for which this is true and that was not asked for yet, and who is its sender.
    async fn hears(
        &mut self,
        group: &GroupId,
        what: &str,
        is: impl Fn(&MembersChange) -> bool,
    ) -> (String, MembersChange) {
        let hears = async {
            loop {
                let found = self.heard.iter().position(|(of, _, members)| of == group && is(members));
                if let Some(at) = found {
                    let (_, sender, members) = self.heard.remove(at);
                    return (sender, members);
                }
                if let Event::Delivered { timeline: TimelineId::Group(of), envelope, .. } =
                    self.events.next().await.expect("it goes on")
                    && let Some(What::Members(members)) = envelope.change.and_then(|change| change.what)
                {
                    self.heard.push((of, envelope.sender, members));
                }
            }
        };
        timeout(PATIENCE, hears).await.unwrap_or_else(|_| panic!("{what} did not come in {group}"))
    }

    async fn owners(&self, group: &GroupId) -> Vec<String> {
        let read = ReadMembers { group: group.to_string(), ..ReadMembers::default() };
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.read_members(read.clone()).await {
                Ok(page) => {
                    let owners = page.members.into_iter().filter(|member| member.role() == Role::Owner);
                    return owners.map(|member| member.user).collect();
                }
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        }
    }

    /// How often the log says each: that the account of this user has ended, and that somebody is an owner.
    async fn log_of_ends(&self, group: &GroupId, user: &str) -> (usize, Vec<String>) {
        let page =
            self.client.fetch(&TimelineId::Group(group.clone()), Direction::Backward, 0, 100).await.expect("read");
        let changes = page.entries.into_iter().filter_map(|entry| entry.envelope?.change?.what);
        let members = changes.filter_map(|what| match what {
            What::Members(members) => Some(members),
            _ => None,
        });
        let (mut ended, mut owners) = (0, Vec::new());
        for members in members {
            ended += usize::from(members.account_ended && members.users == [user]);
            if members.kind() == Kind::Role && members.role() == Role::Owner {
                owners.extend(members.users);
            }
        }
        (ended, owners)
    }
}

/// Runs a command of the operator. Ok: what it printed; an error: what it complained of.
fn tries(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    cluster.routers[0].command(&[args, &["--router", &cluster.router_addresses()[0]]].concat())
}

fn operator(cluster: &Cluster, args: &[&str]) -> String {
    tries(cluster, args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn change_of(kind: Kind, user: &str) -> ChangeMembers {
    ChangeMembers { kind: kind.into(), users: vec![user.into()], ..ChangeMembers::default() }
}

fn set_role(role: Role, user: &str) -> Change {
    Change::Members(ChangeMembers { role: role.into(), ..change_of(Kind::Role, user) })
}

#[test]
fn when_the_account_of_the_only_owner_ends_an_admin_owns_the_group_although_a_router_dies() {
    let mut cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let mut anna = Device::enter(&cluster, &[0], "anna").await;
        let mut bob = Device::enter(&cluster, &[1], "bob").await;
        let members: Vec<String> = vec!["anna".into(), "bob".into()];
        let mut groups = Vec::new();
        // Their inboxes are in several shards, each with a worker of its own in one of the two routers.
        let owners = ["olga", "orla", "ossi", "otto"];
        for owner in owners {
            let device = Device::enter(&cluster, &[0], owner).await;
            for _ in 0..2 {
                let new = CreateGroup { settings: None, members: members.clone() };
                let group = device.client.create_group(None, new).await.expect("made");
                device.client.change_group(&group, set_role(Role::Admin, "bob")).await.expect("is an admin");
                groups.push((owner, group));
            }
            device.client.close().await;
        }
        let last = &groups.last().expect("one").1;
        anna.hears(last, "the role", |members| members.kind() == Kind::Role).await;
        for owner in owners {
            operator(&cluster, &["user", "delete", owner]);
        }
        // Some of the groups have their heirs by now, or none: the workers are in the middle of it.
        cluster.routers[1].kill();
        for (owner, group) in &groups {
            let (sender, left) = anna.hears(group, "the end", |members| members.account_ended).await;
            assert_eq!((&*sender, left.kind(), &left.users[..]), (*owner, Kind::Left, &[(*owner).to_owned()][..]));
            let (_, role) = anna.hears(group, "the heir", |members| members.role() == Role::Owner).await;
            assert_eq!((role.kind(), &role.users[..]), (Kind::Role, &["bob".to_owned()][..]));
            bob.hears(group, "the heir", |members| members.role() == Role::Owner).await;
        }
        for (owner, group) in &groups {
            assert_eq!(bob.owners(group).await, ["bob"]);
            assert_eq!(bob.log_of_ends(group, owner).await, (1, vec!["bob".to_owned()]), "once");
        }
        bob.client.change_group(last, set_role(Role::Admin, "anna")).await.expect("owners may do that");
    });
}

#[test]
fn the_operator_lists_and_shows_groups_gives_roles_removes_members_and_deletes() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let olga = Device::enter(&cluster, &[0], "olga").await;
        let mut bob = Device::enter(&cluster, &[1], "bob").await;
        let names = ["alpha", "beta", "gamma"].map(|name| GroupId::new(name).expect("valid"));
        for group in &names {
            let settings = carillon_proto::pb::client::GroupSettings {
                name: Some(format!("The {group}")),
                link: Some(b"0123456789abcdef".to_vec().into()),
                ..Default::default()
            };
            let new = CreateGroup { settings: Some(settings), members: vec!["bob".into()] };
            olga.client.create_group(Some(group), new).await.expect("made");
        }
        let listed = operator(&cluster, &["groups", "list"]);
        let rows: Vec<_> = listed.lines().skip(1).collect();
        assert_eq!(rows.len(), 3, "{listed}");
        assert!(
            rows[0].starts_with("alpha ") && rows[0].contains("The alpha") && rows[2].starts_with("gamma "),
            "{listed}"
        );
        let page = operator(&cluster, &["groups", "list", "--limit", "1", "--after", "alpha", "--json"]);
        assert!(page.lines().count() == 1 && page.contains("\"group\":\"beta\""), "{page}");
        assert_eq!(operator(&cluster, &["groups", "list", "--domain", "acme.example"]).lines().count(), 1);
        let shown = operator(&cluster, &["groups", "show", "beta", "--json"]);
        for part in ["\"members\":2", "\"owners\":1", "\"name\":\"The beta\"", "\"link\":true"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        assert!(!shown.contains("0123456789abcdef"), "the secret of the link is for members: {shown}");
        assert!(operator(&cluster, &["groups", "show", "beta"]).contains("The beta"));
        let members = operator(&cluster, &["groups", "members", "beta", "--limit", "1"]);
        assert!(members.contains("bob") && !members.contains("olga"), "{members}");
        let members = operator(&cluster, &["groups", "members", "beta"]);
        assert!(members.lines().any(|line| line.contains("olga") && line.contains("owner")), "{members}");

        operator(&cluster, &["groups", "role", "beta", "owner", "bob"]);
        let (sender, role) = bob.hears(&names[1], "the role", |members| members.kind() == Kind::Role).await;
        assert_eq!((&*sender, role.role(), &role.users[..]), ("", Role::Owner, &["bob".to_owned()][..]));
        assert_eq!(bob.owners(&names[1]).await, ["bob", "olga"]);
        let refused = tries(&cluster, &["groups", "role", "beta", "owner", "nobody"]).expect_err("no member");
        assert!(refused.contains("nobody is no member of beta"), "{refused}");

        // The last owner stays one.
        for command in [&["groups", "role", "gamma", "reader", "olga"][..], &["groups", "remove", "gamma", "olga"]] {
            let refused = tries(&cluster, command).expect_err("bob would stay without an owner");
            assert!(refused.contains("give another member the role first"), "{refused}");
        }
        operator(&cluster, &["groups", "remove", "beta", "olga"]);
        let (sender, removed) = bob.hears(&names[1], "the removal", |members| members.kind() == Kind::Removed).await;
        assert_eq!((&*sender, &removed.users[..]), ("", &["olga".to_owned()][..]));
        assert_eq!(bob.owners(&names[1]).await, ["bob"]);
        let ivan = Device::enter(&cluster, &[0], "ivan").await;
        let invites = Change::Members(change_of(Kind::Invited, "ivan"));
        bob.client.change_group(&names[1], invites).await.expect("invited");
        operator(&cluster, &["groups", "remove", "beta", "ivan"]);
        let joins = Change::Members(change_of(Kind::Joined, "ivan"));
        ivan.client.change_group(&names[1], joins).await.expect_err("the invitation was taken back");
        for user in ["olga", "ivan", "nobody"] {
            let refused = tries(&cluster, &["groups", "remove", "beta", user]).expect_err("no member");
            assert!(refused.contains(&format!("{user} is no member of beta")), "{refused}");
        }
        let refused = tries(&cluster, &["groups", "remove", "nothing", "olga"]).expect_err("no group");
        assert!(refused.contains("there is no group nothing"), "{refused}");

        operator(&cluster, &["groups", "delete", "beta"]);
        let until = Instant::now() + PATIENCE;
        loop {
            let read = bob.client.read_group(&names[1]).await;
            if read.is_err() {
                break;
            }
            assert!(Instant::now() < until, "it is there still");
        }
        let listed = operator(&cluster, &["groups", "list"]);
        assert!(!listed.contains("beta") && listed.contains("gamma"), "{listed}");
        for command in [&["groups", "show", "beta"][..], &["groups", "delete", "beta"], &["groups", "members", "beta"]]
        {
            let refused = tries(&cluster, command).expect_err("it is gone");
            assert!(refused.contains("there is no group beta"), "{refused}");
        }
    });
}
