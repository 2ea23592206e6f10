//! Straight lines through noisy points: slope, how sure it is, and whether it is one rise or a step.

/// A point: seconds and a level.
pub(super) type TrendPoint = (f64, f64);

/// A line through points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TrendLine {
    /// Levels a second: the median of the slopes between all pairs of points (Theil-Sen), which
    /// one odd point does not move.
    pub(super) slope: f64,
    /// Standard error of the slope.
    pub(super) error: f64,
    /// Standard deviation of the points around the line.
    pub(super) scatter: f64,
}

/// From the median of absolute deviations to a standard deviation.
const OF_MEDIAN: f64 = 1.4826;
/// More points than this are thinned before all pairs are compared.
const PAIRED: usize = 20;

pub(super) fn median(numbers: &mut [f64]) -> f64 {
    if numbers.is_empty() {
        return 0.0;
    }
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The line through at least three points whose times differ.
pub(super) fn line(points: &[TrendPoint]) -> Option<TrendLine> {
    let step = points.len().div_ceil(PAIRED).max(1);
    // From the newest back, so that the newest is always among them.
    let some: Vec<TrendPoint> = points.iter().rev().step_by(step).copied().collect();
    let mut slopes = Vec::with_capacity(some.len() * some.len() / 2);
    for (index, later) in some.iter().enumerate() {
        for earlier in &some[index + 1..] {
            if later.0 > earlier.0 {
                slopes.push((later.1 - earlier.1) / (later.0 - earlier.0));
            }
        }
    }
    if slopes.len() < 3 {
        return None;
    }
    let slope = median(&mut slopes);
    let mut offsets: Vec<f64> = points
        .iter()
        .map(|(at, level)| level - slope * at)
        .collect();
    let middle = median(&mut offsets);
    for offset in &mut offsets {
        *offset = (*offset - middle).abs();
    }
    let scatter = OF_MEDIAN * median(&mut offsets);
    let count = super::as_f64(points.len() as u64);
    let seconds = points.last()?.0 - points.first()?.0;
    let white = scatter * (12.0 / count).sqrt() / seconds;
    let walk = wander(points, slope).sqrt() / seconds;
    Some(TrendLine {
        slope,
        error: white.hypot(walk),
        scatter,
    })
}

/// The variance that the steps from point to point add up to, beside the slope: the part of their
/// noise that the next step does not take back, as in a random walk.
fn wander(points: &[TrendPoint], slope: f64) -> f64 {
    let steps: Vec<f64> = points
        .windows(2)
        .map(|pair| pair[1].1 - pair[0].1 - slope * (pair[1].0 - pair[0].0))
        .collect();
    let squares: f64 = steps.iter().map(|step| step * step).sum();
    let neighbours: f64 = steps.windows(2).map(|pair| pair[0] * pair[1]).sum();
    (squares + 2.0 * neighbours).max(0.0)
}

/// Rises from the first third of the points to the second, and from there to the third, by
/// medians.
pub(super) fn thirds(points: &[TrendPoint]) -> (f64, f64) {
    let third = points.len().div_ceil(3);
    let level = |part: &[TrendPoint]| {
        let mut levels: Vec<f64> = part.iter().map(|point| point.1).collect();
        median(&mut levels)
    };
    let end = points.len();
    let first = level(&points[..third]);
    let second = level(&points[(end - third) / 2..(end - third) / 2 + third]);
    let last = level(&points[end - third..]);
    (second - first, last - second)
}

/// How fast y grows with x, if that is sure (three standard errors): least squares.
pub(super) fn response(points: &[TrendPoint]) -> Option<f64> {
    let count = super::as_f64(points.len() as u64);
    if points.len() < 5 {
        return None;
    }
    let mean = |of: fn(&TrendPoint) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (middle_x, middle_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut spread, mut common) = (0.0, 0.0);
    for (x, y) in points {
        spread += (x - middle_x).powi(2);
        common += (x - middle_x) * (y - middle_y);
    }
    if spread <= 0.0 {
        return None;
    }
    let slope = common / spread;
    let left: f64 = points
        .iter()
        .map(|(x, y)| (y - middle_y - slope * (x - middle_x)).powi(2))
        .sum();
    let error = (left / (count - 2.0) / spread).sqrt();
    (slope > 3.0 * error).then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::series::Random;

    fn points(levels: impl IntoIterator<Item = f64>) -> Vec<TrendPoint> {
        (0_u32..).map(f64::from).zip(levels).collect()
    }

    #[test]
    fn one_odd_point_does_not_move_a_line() {
        let mut straight = points((0_u32..9).map(|second| f64::from(second) * 20.0));
        straight[4].1 = 4000.0;
        let line = line(&straight).expect("enough points");
        assert!((line.slope - 20.0).abs() < 1e-9, "{line:?}");
        assert!(line.scatter < 1e-9, "{line:?}");
    }

    #[test]
    fn too_few_points_or_no_time_between_make_no_line() {
        assert_eq!(line(&points([1.0, 2.0])), None);
        assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    /// How often a flat series looks like a rise of `sure` standard errors, of 1000.
    fn false_rises(walk: bool, length: usize, sure: f64) -> usize {
        let mut random = Random::new(9);
        let mut found = 0;
        for _ in 0..1000 {
            let mut at = 0.0;
            let flat = points((0..length).map(|_| {
                at = if walk { at } else { 0.0 } + 100.0 * random.normal();
                at
            }));
            let line = line(&flat).expect("enough points");
            found += usize::from(line.slope > sure * line.error);
        }
        found
    }

    #[test]
    fn noise_and_random_walks_seldom_look_like_a_rise() {
        for length in [10, 20, 60] {
            for walk in [false, true] {
                let found = false_rises(walk, length, 4.0);
                println!("{length} points, walk: {walk}: {found} of 1000");
                assert!(
                    found <= 120,
                    "{length} points, walk: {walk}: {found} of 1000"
                );
            }
        }
    }

    #[test]
    fn a_step_rises_in_one_part_only() {
        let (one, other) = thirds(&points([0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0]));
        assert!(one.abs().min(other.abs()) < 1e-9, "{one} {other}");
        let (one, other) = thirds(&points((0_u32..10).map(f64::from)));
        assert!((one - 3.0).abs() < 1.1 && (other - 3.0).abs() < 1.1);
    }

    #[test]
    fn a_response_is_found_only_where_there_is_one() {
        let mut random = Random::new(3);
        let mut noisy = |slope: f64| -> Vec<TrendPoint> {
            (0_u32..20)
                .map(f64::from)
                .map(|x| (x, slope * x + random.normal()))
                .collect()
        };
        let found = response(&noisy(1.0)).expect("a response");
        assert!((found - 1.0).abs() < 0.2, "{found}");
        assert_eq!(response(&noisy(0.0)), None);
        assert_eq!(response(&noisy(-1.0)), None);
        assert_eq!(response(&[(1.0, 2.0); 9]), None);
    }
}
