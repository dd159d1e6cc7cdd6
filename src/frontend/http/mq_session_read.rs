//! `listMqSessions` and `describeMqSessions`.

use std::cmp::Ordering;
use std::net::IpAddr;

use super::envelope::Call;
use super::error_code::{Fault, Warning};
use super::metadata_search::Query;
use super::mq_message::SubscriptionParams;
use super::mq_session::{DescribeParams, ListParams, session_not_found};
use super::mq_session_view::{connection_name, kind_name, show, status_name};
use super::reply::{Object, Out};
use super::time;
use crate::broker::error::SessionRefused;
use crate::broker::label::LabelId;
use crate::broker::session::SessionStatus;
use crate::broker::statistics::{Health, Rates, Statistics};
use crate::broker::{Broker, Caller, SessionView, SubscriptionView};

/// Names and kinds of the sessions that pass all filters.
pub async fn list(call: &mut Call) -> Result<Out, Fault> {
    let (wanted, page) = ListParams::read(&mut call.params)?;
    call.finish_params()?;
    let caller = call.caller()?;
    let broker = call.api.broker.clone();
    let query = Query::parse(&wanted.metadata);
    let mut listed = Vec::new();
    for view in broker.sessions(&wanted.name_begins, &caller) {
        if passes(&wanted, &query, &broker, &view) && passes_health(&wanted, &broker, &caller, &view).await? {
            listed.push(view);
        }
    }
    sort(&mut listed, wanted.ascending, wanted.descending);
    let data: Vec<Out> = page
        .of(listed.into_iter())
        .map(|view| {
            Object::new()
                .with("clientName", view.client_name)
                .with("sessionType", kind_name(view.kind))
                .into()
        })
        .collect();
    Ok(Object::new().with("data", data).into())
}

/// The filters that need nothing but the session itself.
fn passes(wanted: &ListParams, query: &Query, broker: &Broker, view: &SessionView) -> bool {
    let any = |values: &[&str], value: &str| values.is_empty() || values.contains(&value);
    let settings = &view.settings;
    let shows_status = match &wanted.status[..] {
        [] => settings.status != SessionStatus::Hidden,
        statuses => statuses.contains(&status_name(settings.status)),
    };
    let label = settings.label.and_then(|id| broker.labels().get(LabelId(id)));
    let has_id = wanted
        .label_id
        .is_none_or(|id| label.as_ref().is_some_and(|label| label.id.0 == id));
    let has_name = wanted.label.as_ref().is_none_or(|named| {
        label.as_ref().is_some_and(|label| {
            let in_group = named.group.as_ref().is_none_or(|group| *group == label.stored.group);
            in_group && label.stored.name == named.name
        })
    });
    shows_status
        && any(&wanted.connection, connection_name(view.connection))
        && any(&wanted.kind, kind_name(view.kind))
        && has_id
        && has_name
        && query.matches(&settings.metadata)
}

/// `unsetHealthMeasures` is a filter by itself and widens `healthFilter`.
async fn passes_health(
    wanted: &ListParams,
    broker: &Broker,
    caller: &Caller,
    view: &SessionView,
) -> Result<bool, Fault> {
    let has_none = view.settings.health_limits == [0; 5];
    if wanted.health.is_empty() {
        return Ok(!wanted.without_measures || has_none);
    }
    if wanted.without_measures && has_none {
        return Ok(true);
    }
    match broker.statistics(&view.client_name, caller).await {
        Ok(statistics) => Ok(wanted.health.contains(&health_name(statistics.health))),
        // It ended since it was listed.
        Err(SessionRefused::Unknown(_)) => Ok(false),
        Err(refused) => Err(refused.into()),
    }
}

fn health_name(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Offline => "offline",
    }
}

/// By the keys given, ascending first, then by name. What never connected, or never left, comes last in both
/// directions.
fn sort(views: &mut [SessionView], ascending: Option<&str>, descending: Option<&str>) {
    views.sort_by(|one, other| {
        let first = ascending.map_or(Ordering::Equal, |key| compare(key, one, other, false));
        let second = || descending.map_or(Ordering::Equal, |key| compare(key, one, other, true));
        first
            .then_with(second)
            .then_with(|| one.client_name.cmp(&other.client_name))
    });
}

fn compare(key: &str, one: &SessionView, other: &SessionView, descending: bool) -> Ordering {
    fn last_if_none<T: Ord>(one: Option<T>, other: Option<T>, descending: bool) -> Ordering {
        match (one, other) {
            (Some(one), Some(other)) if descending => other.cmp(&one),
            (Some(one), Some(other)) => one.cmp(&other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        }
    }
    let connected = |view: &SessionView| (view.connected != 0).then_some(view.connected);
    let address = |view: &SessionView| view.address.parse::<IpAddr>().ok();
    match key {
        "lastConnect" => last_if_none(connected(one), connected(other), descending),
        "lastDisconnect" => last_if_none(one.disconnected, other.disconnected, descending),
        "ipAddress" => last_if_none(address(one), address(other), descending),
        _ => last_if_none(Some(&one.client_name), Some(&other.client_name), descending),
    }
}

/// Everything about the named sessions; a name that does not exist is a warning.
pub async fn describe(call: &mut Call) -> Result<Out, Fault> {
    let request = DescribeParams::read(&mut call.params)?;
    call.finish_params()?;
    let caller = call.caller()?;
    let broker = call.api.broker.clone();
    let mut data: Vec<Out> = Vec::with_capacity(request.client_names.len());
    for name in &request.client_names {
        match describe_one(call, &broker, name, &request, &caller).await {
            Ok(session) => data.push(session.into()),
            Err(SessionRefused::Unknown(_)) => {
                let Fault { code, message } = session_not_found(name);
                call.warnings.push(Warning::new(code, message));
            }
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(Object::new().with("data", data).into())
}

async fn describe_one(
    call: &Call,
    broker: &Broker,
    name: &str,
    request: &DescribeParams,
    caller: &Caller,
) -> Result<Object, SessionRefused> {
    let view = broker.describe_session(name, caller)?;
    let mut session = show(call, &view);
    if request.stats {
        let statistics = broker.statistics(name, caller).await?;
        session.set("stats", show_statistics(&view, &statistics));
    }
    if request.published {
        let topics = broker.published_topics(name, caller)?;
        session.set("publishedTopics", topics.into_iter().map(Out::from).collect::<Vec<_>>());
    }
    if request.subscribed {
        let held = broker.subscriptions(name, caller)?;
        session.set(
            "subscribedTopics",
            held.into_iter().map(show_subscription).collect::<Vec<Out>>(),
        );
    }
    Ok(session)
}

fn show_subscription(held: SubscriptionView) -> Out {
    let topics: Vec<Out> = held
        .topics
        .into_iter()
        .map(|topic| Object::new().with("topic", topic).into())
        .collect();
    let mut shown = SubscriptionParams::of_broker(held.filter, held.options)
        .show()
        .with("topics", topics);
    if held.truncated {
        shown.set("truncated", true);
    }
    shown.into()
}

fn show_statistics(view: &SessionView, statistics: &Statistics) -> Object {
    let [send_min, send_max, backlog_max, filters_min, filters_max] = view.settings.health_limits;
    let [published_first, published_last, received_first, received_last] = statistics.totals.times;
    let Rates {
        minute,
        ten_minutes,
        connection,
        hour,
    } = statistics.published;
    let received = statistics.received;
    let growth = statistics.backlog_growth;
    let moment = |ms: i64| (ms != 0).then(|| time::seconds(ms));
    Object::new()
        .with("minHealthySendRatePerMinute", send_min)
        .with("maxHealthySendRatePerMinute", send_max)
        .with("maxHealthyBacklogRatePerMinute", backlog_max)
        .with("minHealthySubscribedTopicFiltersCount", filters_min)
        .with("maxHealthySubscribedTopicFiltersCount", filters_max)
        .with("sessionHealth", health_name(statistics.health))
        .with("totalMessagesPublished", statistics.totals.published)
        .with("publishRatePerMinute", minute)
        .with("publishRatePerMinuteLast10Minutes", ten_minutes)
        .with("publishRatePerMinuteInSession", connection)
        .with("publishRatePerHour", hour)
        .with("totalMessagesReceived", statistics.totals.received)
        .with("receiveMessagesPerMinute", received.minute)
        .with("receiveMessagesPerMinuteLast10Minutes", received.ten_minutes)
        .with("receiveMessagesPerMinuteSinceInSession", received.connection)
        .with("receiveMessagesPerHour", received.hour)
        .with("currentDeliveryBacklogged", statistics.backlog)
        .with("deliveryBacklogRatePerMinute", growth.minute)
        .with("deliveryBacklogRatePerMinuteLast10Minutes", growth.ten_minutes)
        .with("deliveryBacklogRatePerMinuteInSession", growth.connection)
        .with("deliveryBacklogRatePerHour", growth.hour)
        .with("deliveryBacklogRatePerDay", statistics.backlog_growth_day)
        .with_some("firstMessagePublishedOn", moment(published_first))
        .with_some("lastMessagePublishedOn", moment(published_last))
        .with_some("firstMessageReceivedOn", moment(received_first))
        .with_some("lastMessageReceivedOn", moment(received_last))
}
