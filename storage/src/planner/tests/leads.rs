//! Leads go by the work of the shards.

use super::*;

/// What a lead counts beside its work.
const LEAD: u64 = 100;

/// Who is to lead which shards of three nodes that have replicas of all.
struct Led {
    cluster: Planned,
    rates: Vec<u64>,
}

impl Led {
    fn with(rates: &[u64]) -> Self {
        Self { cluster: Planned::founded(3), rates: rates.to_vec() }
    }

    /// The next lead moves, with the work of each shard measured wrong by these tenths of a percent. False if none does.
    fn step(&mut self, errors: &[i64]) -> bool {
        let measured = |(number, rate): (usize, &u64)| {
            let wrong = *rate as i64 * errors.get(number).copied().unwrap_or_default() / 1000;
            (shard_of(number), (*rate as i64 + wrong) as u64)
        };
        self.cluster.leads.rates = self.rates.iter().enumerate().map(measured).collect();
        let Some(op) = next(&self.cluster.rows(), &self.cluster.leads) else { return false };
        assert!(matches!(op, Op::PreferReplica(_)), "{op:?}");
        let outcome = self.cluster.apply(op);
        assert!(!matches!(outcome, Outcome::Error(_)), "{outcome:?}");
        true
    }

    fn settle(&mut self) -> usize {
        (0..1000).find(|_| !self.step(&[])).expect("it ends")
    }

    fn leader(&self, number: usize) -> u64 {
        let (rows, shard) = (self.cluster.rows(), shard_of(number));
        rows.node_of(shard, rows.placement()[&shard].preferred).expect("has one")
    }

    /// The true load of each node.
    fn loads(&self) -> Vec<u64> {
        let mut loads = vec![0; 3];
        for (number, rate) in self.rates.iter().enumerate() {
            loads[self.leader(number) as usize - 1] += LEAD + rate;
        }
        loads
    }

    fn leads(&self, node: u64) -> usize {
        (0..self.rates.len()).filter(|number| self.leader(*number) == node).count()
    }
}

/// Shards 0, 3, 6 and 9 are node 1's at first.
const SHARDS: usize = 12;

#[test]
fn a_hot_shard_has_its_node_almost_for_itself() {
    let mut rates = [0; SHARDS];
    rates[3] = 1000;
    let mut led = Led::with(&rates);
    led.settle();
    assert_eq!((led.leader(3), led.leads(1)), (1, 1), "others go, not the one that costs");
    assert_eq!(led.leads(2) + led.leads(3), 11);
    led.rates[3] = 0;
    led.settle();
    assert_eq!([led.leads(1), led.leads(2), led.leads(3)], [4, 4, 4], "all are equal again");
}

#[test]
fn two_hot_shards_of_a_node_are_parted() {
    let mut rates = [50; SHARDS];
    (rates[0], rates[6]) = (5000, 5000);
    let mut led = Led::with(&rates);
    led.settle();
    assert_ne!(led.leader(0), led.leader(6));
}

#[test]
fn small_differences_move_nothing() {
    let rates: Vec<u64> = (0..SHARDS as u64).map(|number| 1000 + number % 3 * 100).collect();
    assert_eq!(Led::with(&rates).settle(), 0);
    assert_eq!(Led::with(&[20, 0, 0, 30, 0, 0, 10, 0, 0, 25, 0, 0]).settle(), 0, "hardly anything is written");
}

#[test]
fn after_a_lead_has_moved_for_its_work_others_rest() {
    let mut rates = [0; SHARDS];
    (rates[0], rates[3]) = (2000, 2000);
    let mut led = Led::with(&rates);
    led.cluster.leads.rests = true;
    assert_eq!(led.settle(), 0);
    led.cluster.leads.rests = false;
    assert!(led.step(&[]));
    led.cluster.leads.waits = true;
    assert_eq!(led.settle(), 0, "not all is known");
    // Numbers that differ are put right at once.
    let mut led = Led::with(&[0; SHARDS]);
    led.cluster.leads.slow = [1].into();
    led.settle();
    assert_eq!(led.leads(1), 0);
    (led.cluster.leads.slow, led.cluster.leads.rests) = (BTreeSet::new(), true);
    led.settle();
    assert_eq!([led.leads(1), led.leads(2), led.leads(3)], [4, 4, 4]);
}

#[test]
fn a_slow_node_is_to_lead_nothing_unless_all_are_slow() {
    let mut led = Led::with(&[100; SHARDS]);
    led.cluster.leads.slow = [2].into();
    led.settle();
    assert_eq!([led.leads(1), led.leads(2), led.leads(3)], [6, 0, 6]);
    led.cluster.leads.slow = [1, 2, 3].into();
    assert_eq!(led.settle(), 0, "there is nobody better");
    led.cluster.leads.slow = BTreeSet::new();
    led.settle();
    assert_eq!([led.leads(1), led.leads(2), led.leads(3)], [4, 4, 4]);
}

fn rates() -> impl Strategy<Value = Vec<u64>> {
    let rate = prop_oneof![Just(0u64), 0..50u64, 0..2000u64, 0..100_000u64];
    prop::collection::vec(rate, SHARDS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn constant_loads_get_even_and_then_stay(rates in rates()) {
        let mut led = Led::with(&rates);
        led.settle();
        let loads = led.loads();
        let (fullest, emptiest) = (*loads.iter().max().expect("three"), *loads.iter().min().expect("three"));
        let from = loads.iter().position(|load| *load == fullest).expect("one") as u64 + 1;
        let smallest = (0..SHARDS).filter(|number| led.leader(*number) == from).map(|number| rates[number] + LEAD).min();
        let smallest = smallest.expect("it leads some");
        let margin = (LEAD / 2).max(loads.iter().sum::<u64>() / 30);
        prop_assert!(fullest * 9 <= (emptiest + smallest) * 11 + margin * 10, "{loads:?} by {rates:?}");
        prop_assert!((0..10).all(|_| !led.step(&[])));
    }

    /// Each move makes the true loads more even, so no earlier state comes back, and moves come to an end.
    #[test]
    fn loads_measured_wrong_by_a_tenth_move_no_lead_to_and_fro(
        rates in rates(),
        errors in prop::collection::vec(prop::collection::vec(-99..=99i64, SHARDS), 100),
    ) {
        let mut led = Led::with(&rates);
        let spread = |led: &Led| led.loads().iter().map(|load| u128::from(*load).pow(2)).sum::<u128>();
        for errors in errors {
            let before = spread(&led);
            if led.step(&errors) {
                prop_assert!(spread(&led) < before, "{:?} by {rates:?}", led.loads());
            }
        }
    }
}
