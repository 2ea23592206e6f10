//! Incidents as they are met: bursts, leaks, doubled backends, clients that try again, several owners, TCP and UDP.

use super::model::{
    Again::{Never, NewPort, Syn},
    Incident,
    Life::{Each, Mean, Two},
    Load,
};

/// Connections for which one is opened anew from another port, every second, until it gets in.
const IMPATIENT: super::model::Again = NewPort(1, 30);

#[expect(clippy::too_many_lines, reason = "a list")]
fn bursts() -> Vec<(&'static str, Incident)> {
    let one = |load, seconds, limit| Incident::new(vec![load], seconds, limit);
    vec![
        (
            "a burst of short connections",
            one(
                Load::tcp(|at| if (30..60).contains(&at) { 300 } else { 40 }, Each(10)),
                150,
                |_| 1_500,
            ),
        ),
        (
            "a burst of long connections",
            one(
                Load::tcp(
                    |at| if (30..60).contains(&at) { 200 } else { 10 },
                    Each(300),
                ),
                150,
                |_| 3_000,
            ),
        ),
        (
            "a burst of connections that live differently",
            one(
                Load::tcp(|at| if (30..70).contains(&at) { 200 } else { 30 }, Mean(20)),
                150,
                |_| 2_000,
            ),
        ),
        (
            "a burst as long as they live",
            one(
                Load::tcp(|at| if (30..50).contains(&at) { 300 } else { 20 }, Mean(20)),
                150,
                |_| 2_000,
            ),
        ),
        (
            "a burst half as long as they live",
            one(
                Load::tcp(|at| if (30..50).contains(&at) { 300 } else { 20 }, Mean(40)),
                150,
                |_| 2_500,
            ),
        ),
        (
            "a burst of which few live long",
            one(
                Load::tcp(
                    |at| if (30..90).contains(&at) { 200 } else { 20 },
                    Two(80, 2, 120),
                ),
                200,
                |_| 2_000,
            ),
        ),
        (
            "spikes every 20 s",
            one(
                Load::tcp(|at| if at % 20 < 2 { 500 } else { 20 }, Mean(12)),
                150,
                |_| 1_200,
            ),
        ),
        (
            "a wave",
            one(
                Load::tcp(
                    |at| 20 + 18 * (at / 10 % 10).min(10 - at / 10 % 10),
                    Mean(30),
                ),
                200,
                |_| 2_000,
            ),
        ),
        (
            "a load that is just too much",
            one(Load::tcp(|at| 100 + at % 7 * 4, Mean(20)), 150, |_| 2_150),
        ),
        (
            "clients that give up at once",
            one(
                Load::tcp(|at| if (30..90).contains(&at) { 150 } else { 50 }, Mean(15))
                    .again(Never),
                180,
                |_| 1_500,
            ),
        ),
        (
            "short connections that linger in TIME_WAIT",
            one(
                Load::tcp(
                    |at| if (20..100).contains(&at) { 60 } else { 20 },
                    Each(121),
                ),
                260,
                |_| 5_000,
            ),
        ),
        (
            "half of which may be evicted",
            one(
                Load {
                    evictable: 50,
                    ..Load::tcp(|at| if (30..60).contains(&at) { 200 } else { 30 }, Mean(30))
                },
                150,
                |_| 3_000,
            ),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn of_several() -> Vec<(&'static str, Incident)> {
    let beside = Load::tcp(|_| 20, Mean(10));
    let fan = Load::tcp(
        |at| {
            if at < 5 || (60..65).contains(&at) {
                360
            } else {
                0
            }
        },
        Each(3600),
    );
    let ten = |number| {
        if number == 3 {
            Load::tcp(|at| if (40..80).contains(&at) { 120 } else { 10 }, Mean(15))
        } else {
            Load::tcp(|_| 12, Mean(15))
        }
    };
    let hundred = Load::tcp(|at| if (40..80).contains(&at) { 4 } else { 1 }, Mean(20));
    vec![
        (
            "a slow leak beside short connections",
            Incident::new(
                vec![Load::tcp(|_| 12, Each(3600)), Load::tcp(|_| 50, Mean(8))],
                300,
                |_| 2_500,
            ),
        ),
        (
            "a slow leak beside UDP",
            Incident::new(
                vec![Load::tcp(|_| 12, Each(3600)), Load::udp(|_| 30, Each(30))],
                300,
                |_| 3_000,
            ),
        ),
        (
            "backends are doubled",
            Incident::new(vec![fan, beside], 150, |_| 2_600),
        ),
        (
            "the limit is halved and backends are doubled",
            Incident::new(
                vec![fan, beside],
                150,
                |at| if at < 55 { 4_000 } else { 2_000 },
            ),
        ),
        (
            "then there is room again",
            Incident::new(vec![fan, beside], 150, |at| {
                if (55..90).contains(&at) {
                    2_000
                } else {
                    200_000
                }
            }),
        ),
        (
            "one of ten owners",
            Incident::new((0..10).map(ten).collect(), 150, |_| 2_400),
        ),
        (
            "a hundred owners together",
            Incident::new(vec![hundred; 100], 150, |_| 4_000),
        ),
        (
            "a new pod with long connections",
            Incident::new(
                vec![
                    Load::tcp(|_| 30, Mean(30)),
                    Load::tcp(|at| if (60..90).contains(&at) { 80 } else { 0 }, Each(3600)),
                ],
                200,
                |_| 2_400,
            ),
        ),
        (
            "raised too little",
            Incident::new(
                vec![Load::tcp(
                    |at| if (20..80).contains(&at) { 120 } else { 20 },
                    Mean(40),
                )],
                150,
                |at| if at < 50 { 1_500 } else { 2_500 },
            ),
        ),
        (
            "customers of a Service, and UDP",
            Incident::new(
                vec![
                    Load::tcp(
                        |at| if (30..120).contains(&at) { 120 } else { 60 },
                        Mean(30),
                    )
                    .again(Syn(3)),
                    Load::udp(|_| 10, Each(30)),
                ],
                200,
                |_| 2_500,
            ),
        ),
        (
            "TCP is refused and UDP is evicted",
            Incident::new(
                vec![
                    Load::tcp(|at| if (30..60).contains(&at) { 150 } else { 20 }, Mean(60)),
                    Load::udp(|_| 40, Each(30)),
                ],
                150,
                |_| 3_000,
            ),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn of_udp_and_retries() -> Vec<(&'static str, Incident)> {
    let again = |seconds, load| Load {
        sends_again: Some(seconds),
        ..load
    };
    let long = Load::udp(|at| if at < 40 { 50 } else { 0 }, Each(120));
    let syns = Load {
        evictable: 100,
        ..Load::tcp(|at| if (20..70).contains(&at) { 60 } else { 5 }, Each(120))
    };
    let beside = Load::tcp(|_| 20, Mean(20));
    let slower = |step, incident| Incident { step, ..incident };
    vec![
        (
            "one-way UDP",
            Incident::new(
                vec![
                    Load::udp(|at| if (20..60).contains(&at) { 150 } else { 20 }, Each(30)),
                    beside,
                ],
                150,
                |_| 2_500,
            ),
        ),
        (
            "DNS",
            Incident::new(
                vec![
                    Load::udp(|at| if (20..60).contains(&at) { 200 } else { 50 }, Each(30))
                        .again(NewPort(5, 2)),
                    beside,
                ],
                150,
                |_| 3_000,
            ),
        ),
        (
            "UDP that sends again at once",
            Incident::new(vec![again(1, long)], 100, |_| 1_400),
        ),
        (
            "UDP that sends again later",
            Incident::new(vec![again(10, long), beside], 100, |_| 1_800),
        ),
        (
            "SYNs to nobody",
            Incident::new(vec![again(2, syns), beside], 150, |_| 2_000),
        ),
        (
            "another port each second",
            Incident::new(
                vec![
                    Load::tcp(|at| if (30..60).contains(&at) { 100 } else { 20 }, Each(60))
                        .again(IMPATIENT),
                ],
                180,
                |_| 2_500,
            ),
        ),
        (
            "another port each second, short connections",
            Incident::new(
                vec![
                    Load::tcp(|at| if (30..60).contains(&at) { 200 } else { 50 }, Mean(10))
                        .again(IMPATIENT),
                ],
                180,
                |_| 1_200,
            ),
        ),
        (
            "another port after 3 s, three times",
            Incident::new(
                vec![
                    Load::tcp(|at| if (30..90).contains(&at) { 100 } else { 20 }, Mean(30))
                        .again(NewPort(3, 3)),
                    beside,
                ],
                180,
                |_| 2_300,
            ),
        ),
        (
            "steps of 10 s",
            slower(
                10,
                Incident::new(
                    vec![Load::tcp(
                        |at| if (30..90).contains(&at) { 300 } else { 40 },
                        Each(10),
                    )],
                    150,
                    |_| 1_500,
                ),
            ),
        ),
        (
            "steps of 10 s, longer",
            slower(
                10,
                Incident::new(
                    vec![Load::tcp(
                        |at| if (60..180).contains(&at) { 100 } else { 20 },
                        Mean(30),
                    )],
                    300,
                    |_| 2_000,
                ),
            ),
        ),
    ]
}

/// Each with what it is.
pub(super) fn incidents() -> Vec<(&'static str, Incident)> {
    let all = [bursts(), of_several(), of_udp_and_retries()];
    all.into_iter().flatten().collect()
}
