//! Data points of OTLP, made of the agent's metrics. Pure.
//!
//! Names are those of `/metrics`, so that a dashboard fits both ways. A receiver of increases is
//! sent what came since the last export that it accepted, so that one that was lost is made up for.

use std::collections::HashMap;

use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
    metric::Data, number_data_point::Value,
};

use super::{
    exposition::{ExposedFamily, ExposedSample},
    resource,
};
use crate::config::CounterForm;

/// Largest whole number up to which each is exact as a float.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Numbers of one series so far: of a counter its total; of a histogram its sum and its buckets,
/// each with all smaller values.
type SeriesTotals = HashMap<String, Vec<f64>>;

/// Makes data points of totals.
pub(super) struct PointMaker {
    form: CounterForm,
    /// Time from which counts are, in nanoseconds since 1970: the start, or the last export.
    since_nanos: u64,
    /// Totals as of then; empty for cumulative counts.
    accepted: SeriesTotals,
}

/// Data points of one export.
pub(super) struct ExportedPoints {
    /// Metrics.
    pub(super) metrics: Vec<Metric>,
    totals: SeriesTotals,
    at_nanos: u64,
}

/// Series of a histogram, gathered from its samples.
#[derive(Default)]
struct Series<'a> {
    labels: Vec<&'a (String, String)>,
    sum: f64,
    /// Bounds, and the number of values up to each; the last is infinite.
    buckets: Vec<(f64, f64)>,
}

impl PointMaker {
    /// Counts from a time on.
    pub(super) fn new(form: CounterForm, start_nanos: u64) -> Self {
        Self { form, since_nanos: start_nanos, accepted: SeriesTotals::new() }
    }

    /// Makes the data points of this moment.
    pub(super) fn points(&self, families: &[ExposedFamily], at_nanos: u64) -> ExportedPoints {
        let mut totals = SeriesTotals::new();
        let metrics = families.iter().filter_map(|family| {
            let data = match &*family.kind {
                "counter" => self.sum(family, at_nanos, &mut totals),
                "histogram" => self.histogram(family, at_nanos, &mut totals),
                _ => gauge(family, at_nanos),
            };
            Some(Metric {
                name: family.samples.first().map(|sample| base_name(family, sample))?,
                description: family.help.clone(),
                unit: unit(&family.unit).to_owned(),
                data: Some(data),
                ..Metric::default()
            })
        });
        ExportedPoints { metrics: metrics.collect(), totals, at_nanos }
    }

    /// Notes that a receiver has accepted points: the next increases are counted from there.
    pub(super) fn accept(&mut self, points: ExportedPoints) {
        if self.form == CounterForm::Delta {
            (self.accepted, self.since_nanos) = (points.totals, points.at_nanos);
        }
    }

    fn temporality(&self) -> i32 {
        match self.form {
            CounterForm::Cumulative => AggregationTemporality::Cumulative as i32,
            CounterForm::Delta => AggregationTemporality::Delta as i32,
        }
    }

    /// Returns what is to be sent of totals, and keeps them.
    fn since_last(&self, series: String, now: Vec<f64>, totals: &mut SeriesTotals) -> Vec<f64> {
        let sent = match self.accepted.get(&series) {
            // A total that fell has begun anew.
            Some(then) if then.len() == now.len() && then[0] <= now[0] => {
                now.iter().zip(then).map(|(now, then)| now - then).collect()
            }
            _ => now.clone(),
        };
        if self.form == CounterForm::Delta {
            totals.insert(series, now);
        }
        sent
    }

    fn sum(&self, family: &ExposedFamily, at_nanos: u64, totals: &mut SeriesTotals) -> Data {
        let points = family.samples.iter().map(|sample| {
            let sent = self.since_last(series_key(sample), vec![sample.value], totals);
            NumberDataPoint {
                start_time_unix_nano: self.since_nanos,
                ..point(sample, at_nanos, sent[0])
            }
        });
        Data::Sum(Sum {
            data_points: points.collect(),
            aggregation_temporality: self.temporality(),
            is_monotonic: true,
        })
    }

    fn histogram(&self, family: &ExposedFamily, at_nanos: u64, totals: &mut SeriesTotals) -> Data {
        let mut all: Vec<(String, Series<'_>)> = Vec::new();
        for sample in &family.samples {
            let bound = sample.labels.iter().find(|(name, _)| name == "le");
            let labels: Vec<_> = sample.labels.iter().filter(|(name, _)| name != "le").collect();
            let key = format!("{}{labels:?}", family.name);
            if all.last().is_none_or(|(last, _)| *last != key) {
                all.push((key, Series { labels, ..Series::default() }));
            }
            let Some((_, series)) = all.last_mut() else { continue };
            match bound {
                Some((_, bound)) => {
                    let bound = bound.parse().unwrap_or(f64::INFINITY);
                    series.buckets.push((bound, sample.value));
                }
                None if sample.name.ends_with("_sum") => series.sum = sample.value,
                None => {}
            }
        }
        let points = all.into_iter().map(|(key, series)| {
            let counts = series.buckets.iter().map(|(_, count)| *count);
            let now = [series.sum].into_iter().chain(counts).collect();
            let sent = self.since_last(key, now, totals);
            let counts = &sent[1..];
            let smaller = [0.0].into_iter().chain(counts.iter().copied());
            let in_buckets = counts.iter().zip(smaller).map(|(up_to, smaller)| up_to - smaller);
            let bounds = series.buckets.iter().map(|(bound, _)| *bound);
            HistogramDataPoint {
                attributes: attributes(series.labels.iter().copied()),
                start_time_unix_nano: self.since_nanos,
                time_unix_nano: at_nanos,
                count: counts.last().map_or(0, |count| *count as u64),
                sum: Some(sent[0]),
                bucket_counts: in_buckets.map(|count| count.max(0.0) as u64).collect(),
                explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
                ..HistogramDataPoint::default()
            }
        });
        Data::Histogram(Histogram {
            data_points: points.collect(),
            aggregation_temporality: self.temporality(),
        })
    }
}

fn gauge(family: &ExposedFamily, at_nanos: u64) -> Data {
    let points = family.samples.iter().map(|sample| point(sample, at_nanos, sample.value));
    Data::Gauge(Gauge { data_points: points.collect() })
}

fn point(sample: &ExposedSample, at_nanos: u64, value: f64) -> NumberDataPoint {
    let value = match value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        true => Value::AsInt(value as i64),
        false => Value::AsDouble(value),
    };
    NumberDataPoint {
        attributes: attributes(&sample.labels),
        time_unix_nano: at_nanos,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn attributes<'a>(
    labels: impl IntoIterator<Item = &'a (String, String)>,
) -> Vec<opentelemetry_proto::tonic::common::v1::KeyValue> {
    labels.into_iter().map(|(name, value)| resource::text(name, value)).collect()
}

fn series_key(sample: &ExposedSample) -> String {
    format!("{}{:?}", sample.name, sample.labels)
}

/// Returns the name of a metric: that of its samples, and of a histogram that of its family.
fn base_name(family: &ExposedFamily, sample: &ExposedSample) -> String {
    match &*family.kind {
        "histogram" => family.name.clone(),
        _ => sample.name.clone(),
    }
}

/// Returns the symbol of a unit in UCUM, which OTLP asks for.
fn unit(name: &str) -> &str {
    match name {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::exposition::families, *};

    const START: u64 = 1_000;

    fn text(total: u64, low: u64, high: u64) -> Vec<ExposedFamily> {
        families(&format!(
            "# HELP a_read_seconds Time.\n# TYPE a_read_seconds histogram\n\
             # UNIT a_read_seconds seconds\n\
             a_read_seconds_sum{{s=\"x\"}} {high}.5\na_read_seconds_count{{s=\"x\"}} {high}\n\
             a_read_seconds_bucket{{le=\"0.1\",s=\"x\"}} {low}\n\
             a_read_seconds_bucket{{le=\"+Inf\",s=\"x\"}} {high}\n\
             # TYPE a_seen counter\na_seen_total{{s=\"x\"}} {total}\n\
             # TYPE a_build info\na_build_info{{version=\"1\"}} 1\n# EOF\n"
        ))
    }

    fn sums(points: &ExportedPoints) -> Vec<(u64, i64)> {
        let of = |metric: &Metric| match &metric.data {
            Some(Data::Sum(sum)) => {
                assert!(sum.is_monotonic && metric.name == "a_seen_total");
                let point = &sum.data_points[0];
                let Some(Value::AsInt(value)) = point.value else { panic!("{point:?}") };
                Some((point.start_time_unix_nano, value))
            }
            _ => None,
        };
        points.metrics.iter().filter_map(of).collect()
    }

    fn histograms(points: &ExportedPoints) -> Vec<HistogramDataPoint> {
        let of = |metric: &Metric| match &metric.data {
            Some(Data::Histogram(histogram)) => {
                assert_eq!((&*metric.name, &*metric.unit), ("a_read_seconds", "s"));
                Some(histogram.data_points[0].clone())
            }
            _ => None,
        };
        points.metrics.iter().filter_map(of).collect()
    }

    #[test]
    fn totals_are_sent_since_the_start() {
        let mut maker = PointMaker::new(CounterForm::Cumulative, START);
        for (total, at) in [(5, 2_000), (7, 3_000)] {
            let points = maker.points(&text(total, 1, 3), at);
            assert_eq!(sums(&points), [(START, total as i64)]);
            let histogram = histograms(&points).remove(0);
            assert_eq!(histogram.bucket_counts, [1, 2]);
            assert_eq!((histogram.count, histogram.sum), (3, Some(3.5)));
            assert_eq!(histogram.explicit_bounds, [0.1]);
            assert_eq!(histogram.attributes.len(), 1, "the bound is no attribute");
            maker.accept(points);
        }
    }

    #[test]
    fn increases_are_counted_from_what_was_accepted() {
        let mut maker = PointMaker::new(CounterForm::Delta, START);
        let first = maker.points(&text(5, 1, 3), 2_000);
        assert_eq!(sums(&first), [(START, 5)]);
        maker.accept(first);
        let lost = maker.points(&text(7, 1, 4), 3_000);
        assert_eq!(sums(&lost), [(2_000, 2)]);
        let next = maker.points(&text(9, 2, 6), 4_000);
        assert_eq!(sums(&next), [(2_000, 4)], "what was lost comes with the next");
        let histogram = histograms(&next).remove(0);
        assert_eq!((histogram.count, histogram.sum), (3, Some(3.0)));
        assert_eq!(histogram.bucket_counts, [1, 2]);
        maker.accept(next);
        assert_eq!(sums(&maker.points(&text(2, 2, 6), 5_000)), [(4_000, 2)], "it began anew");
    }

    #[test]
    fn info_is_a_gauge_of_one() {
        let maker = PointMaker::new(CounterForm::Cumulative, START);
        let points = maker.points(&text(1, 1, 1), 2_000);
        let info = points.metrics.iter().find(|one| one.name == "a_build_info").unwrap();
        let Some(Data::Gauge(gauge)) = &info.data else { panic!("{info:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsInt(1)));
    }
}
