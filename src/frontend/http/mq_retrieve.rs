//! `getMessagesFromMqApiSession` and `getMessagesFromMqTopic`.

use std::time::Duration;

use super::envelope::Call;
use super::error_code::{ErrorCode, Fault};
use super::mq_message::{Acknowledge, Destination, SessionGetParams, TopicGetParams};
use super::mq_publish::table_not_found;
use super::payload::Wanted;
use super::properties::{show, show_batch};
use super::reply::{Object, Out};
use super::time::StartFrom;
use crate::broker::topic_filter::TopicFilter;
use crate::broker::{self, Fetch, History};

/// The next messages of an MQ API session. A caller who hangs up while the call waits loses nothing.
pub async fn from_session(call: &mut Call) -> Result<Out, Fault> {
    let request = SessionGetParams::read(&mut call.params)?;
    call.finish_params()?;
    let caller = call.caller()?;
    let wanted = Wanted::new(request.format, &call.options);
    let fetch = Fetch {
        client_name: request.client_name,
        topic: request.topic,
        messages_max: request.messages_max,
        wait: Duration::from_secs(u64::from(request.wait_seconds)),
        manual: match request.acknowledge {
            Acknowledge::Automatic => None,
            Acknowledge::Manual { seconds } => Some(Duration::from_secs(u64::from(seconds))),
        },
        acknowledge_token: request.acknowledge_token,
    };
    let broker = call.api.broker.clone();
    let fetched = broker.fetch_unless(&fetch, &caller, call.client_gone()).await?;
    Ok(show_batch(&fetched, &wanted)?.into())
}

/// A page of a topic's history.
pub async fn from_topic(call: &mut Call) -> Result<Out, Fault> {
    let request = TopicGetParams::read(&mut call.params)?;
    call.finish_params()?;
    call.caller()?;
    let wanted = Wanted::new(request.format, &call.options);
    let broker = &call.api.broker;
    let topic = match request.source {
        Destination::Topic(topic) if topic.starts_with("$share/") => TopicFilter::parse(&topic)?.filter().to_owned(),
        Destination::Topic(topic) => topic,
        Destination::Table(table) => broker.topic_of_table(&table).ok_or_else(|| table_not_found(&table))?,
    };
    let history = History {
        from: match request.start {
            StartFrom::Tail => broker::StartFrom::Tail,
            StartFrom::Head => broker::StartFrom::Head,
            StartFrom::Time(time) => broker::StartFrom::Time(time),
            StartFrom::Position(position) => broker::StartFrom::Position(position),
        },
        messages_max: request.messages_max,
        include_expired: request.expired,
        topic,
    };
    let page = broker.history(&history).await?.ok_or_else(|| {
        Fault::new(
            ErrorCode::TOPIC_NOT_FOUND,
            format!("Topic \"{}\" does not exist.", history.topic),
        )
    })?;
    let messages: Result<Vec<Out>, Fault> = page
        .messages
        .iter()
        .map(|message| show(message, &wanted).map(Into::into))
        .collect();
    Ok(Object::new()
        .with("data", messages?)
        .with("nextStartFrom", page.next)
        .with("moreMessages", page.more)
        .into())
}
