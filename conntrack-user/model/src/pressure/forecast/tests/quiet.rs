//! Series that never reach the limit: no alarm, or one that ends.

use super::*;

#[test]
fn growth_that_levels_off_below_the_limit_is_no_alarm() {
    for (seed, life, rate, limit) in [
        (1, 30.0, 1000.0, 60_000_u64),
        (2, 30.0, 1000.0, 40_000),
        (3, 120.0, 200.0, 30_000),
        (4, 10.0, 500.0, 10_000),
        (5, 60.0, 100.0, 262_144),
    ] {
        let load = |at: f64| (if at < 20.0 { 0.0 } else { rate }, Life::Memoryless(life));
        let exact = table(Simulation::new(seed).run(400, load), limit);
        for (kind, samples) in [
            ("with rates", exact.clone()),
            ("entries only", entries_only(&exact)),
        ] {
            let said = Said::of(samples);
            let name = format!("memoryless {life} s at {rate}/s, limit {limit}, {kind}");
            let text = said.report(&name, &[]);
            let (told, flips) = (said.told(0.0, 400.0).len(), said.flips());
            // Without rates there is less to tell a bend from noise by.
            let most = if kind == "with rates" {
                (1, 1)
            } else {
                (45, 6)
            };
            assert!(told <= most.0 && flips <= most.1, "{text}");
            if kind == "with rates" {
                let level = said
                    .outlooks
                    .iter()
                    .rev()
                    .find_map(|(_, outlook)| outlook.levels_off_at);
                println!("  levels off at {level:?}, in truth {:.0}", life * rate);
            }
        }
    }
}

#[test]
fn time_outs_are_expected_by_the_lifetime_before() {
    // 5,000 entries in balance; then five times as many inserts, and 25,000 entries.
    let load = |at: f64| (if at < 120.0 { 166.0 } else { 830.0 }, Life::Fixed(30.0));
    let said = Said::of(table(Simulation::new(3).run(300, load), 60_000));
    let text = said.report("fixed 30 s, 166/s then 830/s, limit 60000", &[]);
    // Empty at first: nothing is known. Then it is.
    assert!(said.told(45.0, 300.0).is_empty(), "{text}");
    assert!(said.flips() <= 2, "{text}");
    let level = said.outlooks[135].1.levels_off_at.expect("a level");
    assert!((22_000..28_000).contains(&level), "{level}");

    // The same inserts, but they stay: told when they have outlived the others.
    let load = |at: f64| {
        if at < 120.0 {
            (166.0, Life::Fixed(30.0))
        } else {
            (830.0, Life::Forever)
        }
    };
    let full = 120.0 + 30.0 + (60_000.0 - 830.0 * 30.0) / 830.0;
    let said = Said::of(table(Simulation::new(3).run(as_count(full), load), 60_000));
    let errors = said.errors(150.0, full - 5.0, full);
    let text = said.report("fixed 30 s at 166/s, then 830/s that stay", &errors);
    assert!(said.told(150.0, full).len() > 25, "{text}");
    assert!(said.told(45.0, 122.0).is_empty(), "{text}");
}

#[test]
fn time_outs_in_an_empty_table_end_the_forecast_when_they_come() {
    for (life, rate, limit) in [(30.0, 1000.0, 60_000), (120.0, 400.0, 100_000)] {
        let load = |at: f64| (if at < 20.0 { 0.0 } else { rate }, Life::Fixed(life));
        let said = Said::of(table(Simulation::new(4).run(600, load), limit));
        let text = said.report(&format!("fixed {life} s at {rate}/s, limit {limit}"), &[]);
        assert!(said.told(20.0 + life + 5.0, 600.0).is_empty(), "{text}");
        assert!(said.flips() <= 2, "{text}");
    }
}

#[test]
fn balance_is_never_a_forecast() {
    for (seed, life, rate) in [
        (1, Life::Memoryless(30.0), 1000.0),
        (2, Life::Fixed(30.0), 1000.0),
        (3, Life::Memoryless(1.0), 1_000.0),
        (4, Life::Either(2.0, 100.0), 100.0),
        (5, Life::Memoryless(5.0), 20.0),
    ] {
        let whole = Simulation::new(seed).run(1200, |_| (rate, life));
        // Near the limit, from when it is in balance on.
        let exact = table(whole[500..].to_vec(), as_count(rate * life.mean() * 1.15));
        for (kind, samples, most) in [
            ("with rates", exact.clone(), 0),
            (
                "with rates, noise 10 per mille",
                noisy(&exact, 10.0, seed),
                0,
            ),
            ("entries only", entries_only(&exact), 20),
            (
                "entries only, noise 10 per mille",
                noisy(&entries_only(&exact), 10.0, seed),
                20,
            ),
        ] {
            let said = Said::of(samples);
            let text = said.report(&format!("balance {life:?} at {rate}/s, {kind}"), &[]);
            // 0 s are told when noise takes it over the limit: that is no forecast.
            let told = said
                .told(0.0, 2000.0)
                .iter()
                .filter(|(_, left)| *left > 0.0)
                .count();
            assert!(told <= most, "{told}: {text}");
        }
    }
}

#[test]
fn a_burst_is_no_growth() {
    // 4,000 at once every 50 s; each is gone after 30 s.
    let load = |at: f64| {
        let burst = at >= 60.0 && at % 50.0 < 1.0;
        (if burst { 4000.0 } else { 50.0 }, Life::Fixed(30.0))
    };
    let exact = table(Simulation::new(5).run(600, load), 12_000);
    for (kind, samples) in [
        ("with rates", exact.clone()),
        ("entries only", entries_only(&exact)),
        ("with rates, noise 5 per mille", noisy(&exact, 5.0, 5)),
    ] {
        let said = Said::of(samples);
        let text = said.report(&format!("bursts, {kind}"), &[]);
        assert!(said.told(60.0, 600.0).len() <= 3, "{text}");
        assert!(said.flips() <= 4, "{text}");
    }
}

#[test]
fn waves_of_expiries_are_learnt() {
    // 300/s come; every 40 s all that is there goes at once: 30,000 to 42,000 of 60,000.
    let exact: Vec<PressureSample> = (0..800_u64)
        .map(|second| {
            let gone = second / 40 * 40 * 300;
            PressureSample {
                at: Duration::from_secs(second),
                entries: 30_000 + second * 300 - gone,
                limit: 60_000,
                flow: Some((second * 300, gone)),
                ..PressureSample::default()
            }
        })
        .collect();
    for (kind, samples) in [
        ("with rates", exact.clone()),
        ("entries only", entries_only(&exact)),
        ("with rates, noise 5 per mille", noisy(&exact, 5.0, 5)),
    ] {
        let said = Said::of(samples);
        let text = said.report(&format!("waves, {kind}"), &[]);
        assert!(said.told(45.0, 800.0).is_empty(), "{text}");
        assert!(said.flips() <= 2, "{text}");
    }
}
