//! How a cost grows with a size: not at all, with its logarithm, or faster.

use std::fmt;

use serde::Serialize;

/// How a cost grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Growth {
    /// Not at all, or it falls.
    Flat,
    /// With the logarithm.
    Logarithmic,
    /// Faster than that.
    Faster,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flat => "flat",
            Self::Logarithmic => "logarithmic",
            Self::Faster => "FASTER THAN LOGARITHMIC",
        })
    }
}

/// Instructions that the cost may vary by and still be flat: ways through the same code.
const FLAT: u64 = 8;
/// Instructions that one doubling may cost, of anything that is searched by halves.
const DOUBLING: f64 = 32.0;

impl Growth {
    /// How the costs of `points` (size, cost) grow. Of several sizes the curve counts that is nearer to them by least squares,
    /// the straight line or the logarithm; a logarithm that costs more than [`DOUBLING`] each time is none.
    pub(crate) fn of(points: &[(u32, u64)]) -> Self {
        // What a greater size costs more than any smaller one: a cost that falls does not grow.
        let mut least = u64::MAX;
        let rises = points.iter().map(|(_, cost)| {
            least = least.min(*cost);
            cost - least
        });
        if rises.max().unwrap_or(0) <= FLAT {
            return Self::Flat;
        }
        let fit = |scale: fn(f64) -> f64| {
            let points = points
                .iter()
                .map(|(size, cost)| (scale(f64::from(*size)), *cost as f64));
            line(&points.collect::<Vec<_>>())
        };
        let (straight, logarithm) = (fit(|size| size), fit(f64::log2));
        if logarithm.slope <= DOUBLING && logarithm.error <= straight.error {
            Self::Logarithmic
        } else {
            Self::Faster
        }
    }
}

/// A straight line through points.
struct Line {
    slope: f64,
    /// The sum of the squares of what it misses them by.
    error: f64,
}

fn line(points: &[(f64, f64)]) -> Line {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let slope = if spread > 0.0 { together / spread } else { 0.0 };
    let missed = |point: &(f64, f64)| (point.1 - y - slope * (point.0 - x)).powi(2);
    Line {
        slope,
        error: points.iter().map(missed).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::Growth;

    #[test]
    fn growth_is_told_apart() {
        const SIZES: [u32; 4] = [1, 8, 64, 512];
        for (what, costs, growth) in [
            ("nothing", [500, 500, 500, 500], Growth::Flat),
            ("noise", [500, 507, 499, 502], Growth::Flat),
            ("a search by halves", [500, 518, 536, 554], Growth::Logarithmic),
            ("half of the doublings cost", [500, 500, 521, 540], Growth::Logarithmic),
            ("one step at the beginning", [500, 560, 560, 560], Growth::Logarithmic),
            ("it becomes cheaper", [560, 500, 500, 500], Growth::Flat),
            ("a list", [500, 502, 516, 628], Growth::Faster),
            ("a list of cheap elements", [500, 500, 503, 526], Growth::Faster),
            ("doublings that are dear", [500, 700, 900, 1100], Growth::Faster),
            ("squares", [500, 564, 4596, 262_644], Growth::Faster),
        ] {
            let points: Vec<_> = SIZES.into_iter().zip(costs).collect();
            assert_eq!(Growth::of(&points), growth, "{what}");
        }
        assert_eq!(Growth::of(&[]), Growth::Flat);
        assert_eq!(Growth::of(&[(1, 7)]), Growth::Flat);
    }
}
