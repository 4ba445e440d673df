//! Which sessions and shared groups of this shard want which topics.
//!
//! One entry per distinct Topic Filter with its text and its subscribers; the index finds the
//! filters of a topic and the text confirms each, so a collision of hashes delivers nothing to
//! anyone who did not ask. The `$share/{group}/` of a shared subscription is taken off by the
//! caller, who subscribes the group.
//!
//! Scope: shard. Deterministic: visits in an order that depends on seed and calls only.

use std::collections::BTreeMap;

use octopus_mqtt::{QoS, TopicFilter, TopicName};

use crate::filter_index::{FilterIndex, push_tight};

/// A session on this shard: index of its slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u32);

/// A shared subscription's group on this shard: index of its slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// A Topic Filter that somebody on this shard is subscribed to. Used again for another filter
/// when the last one unsubscribed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FilterId(pub u32);

/// Who subscribes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subscriber {
    Session(SessionId),
    Group(GroupId),
}

/// What one subscriber asked for with one filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Maximum QoS at which to send.
    pub qos: QoS,
    /// Do not send back what the session published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// Subscription Identifier; 0 is none.
    pub subscription_id: u32,
}

/// What [`Subscriptions::subscribe`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribed {
    pub filter: FilterId,
    /// Nobody on this shard had this filter before: interest must be announced.
    pub first: bool,
    /// What this subscriber had with this filter before.
    pub replaced: Option<Grant>,
}

/// What [`Subscriptions::unsubscribe`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsubscribed {
    /// Nobody on this shard has this filter any more: interest must be withdrawn.
    pub last: bool,
    /// The filter's text, when it was the last.
    pub text: Option<Box<str>>,
}

/// All subscriptions of one shard.
#[derive(Debug)]
pub struct Subscriptions {
    index: FilterIndex,
    filters: Vec<Option<Filter>>,
    unused: Vec<FilterId>,
    subscription_count: usize,
    text_bytes: usize,
}

#[derive(Debug)]
struct Filter {
    text: Box<str>,
    subscribers: Subscribers,
}

/// Most filters have one subscriber; some have a hundred thousand that come and go.
#[derive(Debug)]
enum Subscribers {
    One(Subscriber, Grant),
    /// Two or more.
    #[expect(clippy::box_collection, reason = "halves the filter that has one subscriber")]
    Many(Box<BTreeMap<Subscriber, Grant>>),
}

impl Subscriptions {
    /// - `seed`: keys the hashes; not to be known by clients.
    pub fn new(seed: u64) -> Self {
        Self {
            index: FilterIndex::new(seed),
            filters: Vec::new(),
            unused: Vec::new(),
            subscription_count: 0,
            text_bytes: 0,
        }
    }

    /// Adds or replaces one subscription. Cost: the filter's levels, and the logarithm of its
    /// subscribers.
    pub fn subscribe(
        &mut self,
        filter: TopicFilter<'_>,
        subscriber: Subscriber,
        grant: Grant,
    ) -> Subscribed {
        let Some(id) = self.find_filter(filter) else {
            self.subscription_count += 1;
            self.text_bytes += filter.as_str().len();
            let id = self.insert(Filter {
                text: filter.as_str().into(),
                subscribers: Subscribers::One(subscriber, grant),
            });
            self.index.insert(filter, id.0);
            return Subscribed { filter: id, first: true, replaced: None };
        };
        let replaced = self
            .filters
            .get_mut(id.0 as usize)
            .and_then(Option::as_mut)
            .and_then(|known| known.subscribers.insert(subscriber, grant));
        self.subscription_count += usize::from(replaced.is_none());
        Subscribed { filter: id, first: false, replaced }
    }

    /// Removes one subscription; `None` if there is no such. `filter` is not valid any more
    /// after the last.
    pub fn unsubscribe(
        &mut self,
        filter: FilterId,
        subscriber: Subscriber,
    ) -> Option<Unsubscribed> {
        let slot = self.filters.get_mut(filter.0 as usize)?;
        let left = slot.as_mut()?.subscribers.remove(subscriber)?;
        self.subscription_count -= 1;
        if left > 0 {
            return Some(Unsubscribed { last: false, text: None });
        }
        let text = slot.take()?.text;
        self.text_bytes -= text.len();
        self.unused.push(filter);
        self.index.remove(TopicFilter::assume_valid(&text), filter.0);
        Some(Unsubscribed { last: true, text: Some(text) })
    }

    /// The filter with this text, if anybody is subscribed to it.
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.find_filter(TopicFilter::parse(filter).ok()?)
    }

    /// The filter's text; empty if the filter is gone.
    pub fn text(&self, filter: FilterId) -> &str {
        self.filter(filter).map_or("", |known| &known.text)
    }

    /// What `subscriber` has with `filter`.
    pub fn grant(&self, filter: FilterId, subscriber: Subscriber) -> Option<Grant> {
        match &self.filter(filter)?.subscribers {
            Subscribers::One(one, grant) => (*one == subscriber).then_some(*grant),
            Subscribers::Many(all) => all.get(&subscriber).copied(),
        }
    }

    /// Calls `each` for every subscription whose filter matches `topic`; one subscriber comes
    /// once per matching filter. Returns how many filters matched: only above 1 can a
    /// subscriber have come twice.
    pub fn matching(&self, topic: TopicName<'_>, mut each: impl FnMut(Subscriber, Grant)) -> usize {
        let mut matched = 0;
        self.index.candidates(topic.as_str(), |id| {
            let Some(filter) = self.filter(FilterId(id)) else { return };
            if !filter.matches(topic) {
                return;
            }
            matched += 1;
            match &filter.subscribers {
                Subscribers::One(subscriber, grant) => each(*subscriber, *grant),
                Subscribers::Many(all) => {
                    all.iter().for_each(|(subscriber, grant)| each(*subscriber, *grant));
                }
            }
        });
        matched
    }

    /// Every filter with its text and how many subscribe to it.
    pub fn filters(&self) -> impl Iterator<Item = (FilterId, &str, usize)> {
        (0..).zip(&self.filters).filter_map(|(id, filter)| {
            let filter = filter.as_ref()?;
            Some((FilterId(id), &*filter.text, filter.subscribers.len()))
        })
    }

    /// How many sessions, shared groups not counted, have this filter: 0, 1, or 2 for more.
    pub fn session_count_to_2(&self, filter: FilterId) -> usize {
        let is_session = |subscriber: &Subscriber| matches!(subscriber, Subscriber::Session(_));
        match self.filter(filter).map(|known| &known.subscribers) {
            None => 0,
            Some(Subscribers::One(one, _)) => usize::from(is_session(one)),
            // Sessions sort before groups.
            Some(Subscribers::Many(all)) => all.keys().take(2).filter(|s| is_session(s)).count(),
        }
    }

    pub fn filter_count(&self) -> usize {
        self.index.filter_count()
    }

    pub fn subscription_count(&self) -> usize {
        self.subscription_count
    }

    /// Bytes of all filters' texts.
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    fn filter(&self, id: FilterId) -> Option<&Filter> {
        self.filters.get(id.0 as usize)?.as_ref()
    }

    fn find_filter(&self, filter: TopicFilter<'_>) -> Option<FilterId> {
        let is_it = |id| self.text(FilterId(id)) == filter.as_str();
        self.index.find(filter, is_it).map(FilterId)
    }

    fn insert(&mut self, filter: Filter) -> FilterId {
        if let Some(id) = self.unused.pop() {
            self.filters[id.0 as usize] = Some(filter);
            return id;
        }
        push_tight(&mut self.filters, Some(filter));
        FilterId(self.filters.len() as u32 - 1)
    }
}

impl Filter {
    fn matches(&self, topic: TopicName<'_>) -> bool {
        *self.text == *topic.as_str() || TopicFilter::assume_valid(&self.text).matches(topic)
    }
}

impl Subscribers {
    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn insert(&mut self, subscriber: Subscriber, grant: Grant) -> Option<Grant> {
        match self {
            Self::One(one, had) if *one == subscriber => Some(std::mem::replace(had, grant)),
            Self::One(one, had) => {
                *self = Self::Many(Box::new([(*one, *had), (subscriber, grant)].into()));
                None
            }
            Self::Many(all) => all.insert(subscriber, grant),
        }
    }

    /// How many are left without `subscriber`; with none left, the value is stale. `None` if
    /// it was not here.
    fn remove(&mut self, subscriber: Subscriber) -> Option<usize> {
        let all = match self {
            Self::One(one, _) => return (*one == subscriber).then_some(0),
            Self::Many(all) => all,
        };
        all.remove(&subscriber)?;
        let left = all.len();
        if left == 1
            && let Some((one, grant)) = all.pop_first()
        {
            *self = Self::One(one, grant);
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::{MATCHES, Random, filter, topic};

    type Model = BTreeMap<(String, Subscriber), Grant>;

    fn session(index: u32) -> Subscriber {
        Subscriber::Session(SessionId(index))
    }

    fn grant(subscription_id: u32) -> Grant {
        Grant { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: true, subscription_id }
    }

    fn check_topic(subscriptions: &Subscriptions, model: &Model, name: &str) {
        let mut found = Vec::new();
        let filter_count = subscriptions.matching(topic(name), |subscriber, grant| {
            found.push((subscriber, grant.subscription_id));
        });
        let matching = |text: &str| filter(text).matches(topic(name));
        let mut wanted: Vec<_> = model
            .iter()
            .filter(|((text, _), _)| matching(text))
            .map(|((_, subscriber), grant)| (*subscriber, grant.subscription_id))
            .collect();
        let mut texts: Vec<_> = model.keys().map(|(text, _)| text).collect();
        texts.dedup();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{name}");
        assert_eq!(filter_count, texts.iter().filter(|text| matching(text)).count(), "{name}");
    }

    #[test]
    fn every_filter_matches_what_the_specification_says() {
        for &(text, name, matches) in MATCHES {
            let mut subscriptions = Subscriptions::new(1);
            subscriptions.subscribe(filter(text), session(1), grant(0));
            let found = subscriptions.matching(topic(name), |_, _| {});
            assert_eq!(found == 1, matches, "{text} and {name}");
        }
    }

    #[test]
    fn random_subscriptions_agree_with_a_list_of_filters() {
        for seed in 0..10 {
            let mut random = Random(seed);
            let mut subscriptions = Subscriptions::new(seed);
            let mut model = Model::new();
            for round in 0..500 {
                let text = random.filter();
                let subscriber = match random.below(6) {
                    0 => Subscriber::Group(GroupId(0)),
                    index => session(index as u32),
                };
                let others = model.keys().filter(|(other, _)| *other == text).count();
                let key = (text.clone(), subscriber);
                // Grows in the first half and shrinks in the second.
                if random.below(500) > round {
                    let done =
                        subscriptions.subscribe(filter(&text), subscriber, grant(round as u32));
                    assert_eq!(done.first, others == 0);
                    assert_eq!(done.replaced, model.insert(key, grant(round as u32)));
                    assert_eq!(subscriptions.text(done.filter), text);
                } else if let Some(id) = subscriptions.find(&text) {
                    assert_eq!(subscriptions.grant(id, subscriber), model.get(&key).copied());
                    let done = subscriptions.unsubscribe(id, subscriber);
                    let last = others == 1;
                    let expected = model
                        .remove(&key)
                        .map(|_| Unsubscribed { last, text: last.then(|| text.as_str().into()) });
                    assert_eq!(done, expected);
                } else {
                    assert_eq!(others, 0);
                }
                assert_eq!(subscriptions.subscription_count(), model.len());
                check_topic(&subscriptions, &model, &random.topic());
            }
            for (text, subscriber) in model.keys() {
                let id = subscriptions.find(text).expect("still subscribed");
                subscriptions.unsubscribe(id, *subscriber).expect("still subscribed");
            }
            assert_eq!(subscriptions.filter_count(), 0);
            assert_eq!(subscriptions.filters().count(), 0);
            assert!(subscriptions.index.is_pristine());
        }
    }

    #[test]
    fn an_unknown_filter_or_subscriber_cannot_unsubscribe() {
        let mut subscriptions = Subscriptions::new(1);
        let id = subscriptions.subscribe(filter("a/+"), session(1), grant(0)).filter;
        assert_eq!(subscriptions.unsubscribe(FilterId(7), session(1)), None);
        assert_eq!(subscriptions.unsubscribe(id, session(2)), None);
        assert!(subscriptions.unsubscribe(id, session(1)).is_some_and(|done| done.last));
        assert_eq!(subscriptions.unsubscribe(id, session(1)), None);
    }

    #[test]
    fn one_subscription_is_small() {
        assert_eq!(size_of::<Subscriber>(), 8);
        assert_eq!(size_of::<Grant>(), 8);
        assert_eq!(size_of::<Option<Filter>>(), 32);
    }
}
