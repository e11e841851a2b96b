//! How much went in and out lately, per topic and group: counters as of some moments before, from which tools are told sums and
//! rates of the last minute, hour and day. Bounded by the catalog: what does not exist any more is forgotten.

use martlet_broker::Figures;
use martlet_model::UnixMillis;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const DAY_MILLIS: i64 = 86_400_000;
/// Between two marks of the finest kind.
pub(crate) const MARK_EVERY: Duration = Duration::from_secs(10);
/// Seconds between marks of each kind, and how many are kept: a minute, an hour and a day.
const KINDS: [(u32, usize); 3] = [(MARK_EVERY.as_secs() as u32, 7), (600, 7), (3_600, 25)];

/// One counter.
#[derive(Debug, Default)]
struct Series {
    count: u64,
    /// Second and count, oldest first, of each kind.
    marks: [VecDeque<(u32, u64)>; 3],
}

/// How much there was within a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Amount {
    /// In all.
    pub sum: u64,
    /// Per second.
    pub rate: f64,
}

impl Series {
    /// Begins at 0 at this second.
    fn at(second: u32) -> Self {
        Self { count: 0, marks: std::array::from_fn(|_| VecDeque::from([(second, 0)])) }
    }

    fn mark(&mut self, second: u32) {
        for (marks, (every, most)) in self.marks.iter_mut().zip(KINDS) {
            if marks.back().is_some_and(|(last, _)| second.saturating_sub(*last) < every) {
                continue;
            }
            marks.push_back((second, self.count));
            if marks.len() > most {
                marks.pop_front();
            }
        }
    }

    fn since(&self, mark: (u32, u64), second: u32) -> Amount {
        let sum = self.count.saturating_sub(mark.1);
        Amount { sum, rate: sum as f64 / f64::from(second.saturating_sub(mark.0).max(1)) }
    }

    /// Of the last minute, hour and day.
    fn amounts(&self, second: u32) -> [Amount; 3] {
        std::array::from_fn(|kind| {
            self.marks[kind].front().map_or_else(Amount::default, |mark| self.since(*mark, second))
        })
    }

    /// Of so many seconds, or since it began.
    fn rate(&self, second: u32, seconds: u32) -> f64 {
        let marks = || self.marks.iter().flatten();
        let old_enough = marks().filter(|mark| second.saturating_sub(mark.0) >= seconds).max_by_key(|mark| mark.0);
        let mark = old_enough.or_else(|| marks().min_by_key(|mark| mark.0));
        mark.map_or(0.0, |mark| self.since(*mark, second).rate)
    }
}

/// Messages that came in and that went out since the start, as of some moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Days {
    /// As yesterday began.
    pub yesterday: (u64, u64),
    /// As today began.
    pub today: (u64, u64),
    /// By now.
    pub now: (u64, u64),
}

/// Where days begin in all that is counted.
#[derive(Debug, Default)]
struct Mornings {
    /// The newest day that is known, since 1970 in UTC.
    day: Option<i64>,
    yesterday: (u64, u64),
    today: (u64, u64),
}

impl Mornings {
    /// So much there is on this day. A clock that was set back begins no day.
    fn mark(&mut self, day: i64, counts: (u64, u64)) {
        match self.day {
            Some(known) if known >= day => return,
            Some(_) => self.yesterday = std::mem::replace(&mut self.today, counts),
            None => {}
        }
        self.day = Some(day);
    }

    fn days(&self, now: (u64, u64)) -> Days {
        Days { yesterday: self.yesterday, today: self.today, now }
    }
}

#[derive(Debug)]
struct State {
    /// In which second counts were last taken anew for a question.
    counted: Option<u32>,
    /// Second of the newest marks.
    marked: u32,
    put: Series,
    got: Series,
    mornings: Mornings,
    topics: BTreeMap<String, Series>,
    /// By group and topic.
    groups: BTreeMap<(String, String), Series>,
}

impl State {
    fn count(&mut self, figures: &Figures) {
        let marked = self.marked;
        let (mut put, mut got) = (0, 0);
        let mut topics = std::mem::take(&mut self.topics);
        for topic in &figures.topics {
            let series = topics.remove(&topic.topic);
            put += counted(&mut self.topics, topic.topic.clone(), series, topic.messages_in, marked);
        }
        let mut groups = std::mem::take(&mut self.groups);
        for group in &figures.groups {
            let key = (group.group.clone(), group.topic.clone());
            let series = groups.remove(&key);
            got += counted(&mut self.groups, key, series, group.messages_out, marked);
        }
        self.put.count += put;
        self.got.count += got;
    }
}

/// Keeps a series with its newest count; by how much it grew. One that fell has been made anew.
fn counted<K: Ord>(into: &mut BTreeMap<K, Series>, key: K, series: Option<Series>, count: u64, marked: u32) -> u64 {
    let mut series = series.filter(|series| series.count <= count).unwrap_or_else(|| Series::at(marked));
    let more = count - series.count;
    series.count = count;
    into.insert(key, series);
    more
}

/// What is known of all counters.
#[derive(Debug)]
pub(crate) struct Rates {
    began: Instant,
    state: Mutex<State>,
}

impl Default for Rates {
    fn default() -> Self {
        let (topics, groups) = (BTreeMap::new(), BTreeMap::new());
        let (put, got) = (Series::at(0), Series::at(0));
        let mornings = Mornings::default();
        let state = State { counted: None, marked: 0, put, got, mornings, topics, groups };
        Self { began: Instant::now(), state: Mutex::new(state) }
    }
}

impl Rates {
    fn second(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what is counted by now, which is at this time.
    pub fn mark(&self, figures: &Figures, now: UnixMillis) {
        self.mark_at(figures, self.second(), now.0.div_euclid(DAY_MILLIS));
    }

    fn mark_at(&self, figures: &Figures, second: u32, day: i64) {
        let mut state = self.state();
        state.count(figures);
        state.marked = second;
        let counts = (state.put.count, state.got.count);
        state.mornings.mark(day, counts);
        let State { put, got, topics, groups, .. } = &mut *state;
        let all = [put, got].into_iter().chain(topics.values_mut()).chain(groups.values_mut());
        all.for_each(|series| series.mark(second));
    }

    /// The newest counts, taken anew where they are older than a second; and the second they are of.
    fn fresh(&self, figures: impl FnOnce() -> Figures) -> (MutexGuard<'_, State>, u32) {
        let second = self.second();
        let mut state = self.state();
        if state.counted.is_none_or(|counted| counted < second) {
            state.count(&figures());
            state.counted = Some(second);
        }
        (state, second)
    }

    /// Of the last minute, hour and day: messages that came in for a topic. `None`: none ever did.
    pub fn topic(&self, topic: &str, figures: impl FnOnce() -> Figures) -> Option<[Amount; 3]> {
        let (state, second) = self.fresh(figures);
        state.topics.get(topic).map(|series| series.amounts(second))
    }

    /// The same, of messages that went out to a group from a topic.
    pub fn group(&self, group: &str, topic: &str, figures: impl FnOnce() -> Figures) -> Option<[Amount; 3]> {
        let (state, second) = self.fresh(figures);
        state.groups.get(&(group.to_owned(), topic.to_owned())).map(|series| series.amounts(second))
    }

    /// The same, of all that came in, and of all that went out.
    pub fn all(&self, figures: impl FnOnce() -> Figures) -> ([Amount; 3], [Amount; 3]) {
        let (state, second) = self.fresh(figures);
        (state.put.amounts(second), state.got.amounts(second))
    }

    /// Messages per second of the last 10 s, minute and 10 minutes that came in, and that went out.
    pub fn rates(&self, figures: impl FnOnce() -> Figures) -> ([f64; 3], [f64; 3]) {
        let (state, second) = self.fresh(figures);
        let of = |series: &Series| [10, 60, 600].map(|seconds| series.rate(second, seconds));
        (of(&state.put), of(&state.got))
    }

    /// Messages that came in and that went out since the start, by now and as the last days began.
    pub fn days(&self, figures: impl FnOnce() -> Figures) -> Days {
        let (state, _) = self.fresh(figures);
        state.mornings.days((state.put.count, state.got.count))
    }

    /// Messages per second of the last minute that went out to a group.
    pub fn consumed(&self, group: &str, figures: impl FnOnce() -> Figures) -> f64 {
        let (state, second) = self.fresh(figures);
        let from = (group.to_owned(), String::new());
        let of_group = state.groups.range(from..).take_while(|((known, _), _)| known == group);
        of_group.fold(0.0, |sum, (_, series)| sum + series.rate(second, 60))
    }

    /// The same, that came in for a topic.
    pub fn produced(&self, topic: &str, figures: impl FnOnce() -> Figures) -> f64 {
        let (state, second) = self.fresh(figures);
        state.topics.get(topic).map_or(0.0, |series| series.rate(second, 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_rates_are_of_a_minute_an_hour_and_a_day_and_memory_is_bounded() {
        let mut series = Series::at(0);
        // One message a second for two days.
        for second in (10..=172_800).step_by(10) {
            series.count = u64::from(second);
            series.mark(second);
        }
        let sums = series.amounts(172_800).map(|amount| (amount.sum, amount.rate));
        assert_eq!(sums, [(60, 1.0), (3_600, 1.0), (86_400, 1.0)]);
        assert_eq!(series.marks.each_ref().map(VecDeque::len), [7, 7, 25]);
        // Silence.
        let later = 172_800 + 600;
        series.mark(later);
        assert_eq!(series.rate(later, 10), 0.0);
        assert_eq!(series.rate(later, 601), 10.0 / 610.0);
    }

    #[test]
    fn days_are_told_apart_at_the_first_mark_of_each() {
        let mut mornings = Mornings::default();
        let mut on = |day, counts| {
            mornings.mark(day, counts);
            let Days { yesterday, today, now } = mornings.days(counts);
            (yesterday, today, now)
        };
        assert_eq!(on(20_000, (5, 50)), ((0, 0), (0, 0), (5, 50)));
        assert_eq!(on(20_001, (7, 70)), ((0, 0), (7, 70), (7, 70)));
        assert_eq!(on(20_001, (9, 90)), ((0, 0), (7, 70), (9, 90)));
        assert_eq!(on(20_002, (12, 120)), ((7, 70), (12, 120), (12, 120)));
        // The clock is set back.
        assert_eq!(on(20_001, (13, 130)), ((7, 70), (12, 120), (13, 130)));
    }

    #[test]
    fn what_is_made_anew_begins_anew() {
        let mut all = BTreeMap::new();
        assert_eq!(counted(&mut all, "topic", None, 5, 0), 5);
        let known = all.remove("topic");
        assert_eq!(counted(&mut all, "topic", known, 7, 0), 2);
        let known = all.remove("topic");
        assert_eq!(counted(&mut all, "topic", known, 1, 10), 1);
        assert_eq!(all["topic"].amounts(20)[0], Amount { sum: 1, rate: 0.1 });
    }
}
