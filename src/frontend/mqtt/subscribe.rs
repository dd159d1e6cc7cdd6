//! SUBSCRIBE and UNSUBSCRIBE, and their answers.
//!
//! Spec: sections 3.8 to 3.11 of both versions.

use std::num::NonZeroU16;

use super::connection::Client;
use super::disconnect::End;
use super::frame::Malformed;
use super::packet::{self, FilterAnswers, RetainHandling, Subscribe, Unsubscribe};
use super::publish::qos;
use super::reason::ReasonCode;
use crate::broker::connection::SubscribeRefused;
use crate::broker::message::Qos;
use crate::broker::subscription::{self, SubscriptionOptions};
use crate::broker::topic_filter::TopicFilter;
use crate::broker::topic_name::InvalidTopic;

impl Client {
    /// Hands a SUBSCRIBE on; what is wrong with a filter is its own answer's matter.
    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        let Subscribe {
            packet_id,
            subscription_id,
            filters,
            user_properties,
        } = subscribe;
        let filters = filters.into_iter().map(|wanted| {
            let options = SubscriptionOptions {
                qos: qos(wanted.qos),
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                retain_handling: match wanted.retain_handling {
                    RetainHandling::Always => subscription::RetainHandling::OnSubscription,
                    RetainHandling::IfNew => subscription::RetainHandling::OnNewSubscription,
                    RetainHandling::Never => subscription::RetainHandling::Never,
                },
                identifier: subscription_id,
                include_expired: false,
                user_properties: user_properties.clone(),
            };
            (TopicFilter::parse(&wanted.filter), options)
        });
        self.handle.subscribe(packet_id.get(), filters.collect());
        self.pull_due = true;
    }

    /// Hands an UNSUBSCRIBE on.
    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let filters = unsubscribe
            .filters
            .iter()
            .map(|filter| TopicFilter::parse(filter))
            .collect();
        self.handle.unsubscribe(unsubscribe.packet_id.get(), filters);
        self.pull_due = true;
    }

    pub(super) fn suback(
        &self,
        packet_id: u16,
        results: &[Result<Qos, SubscribeRefused>],
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        let Some(packet_id) = NonZeroU16::new(packet_id) else {
            return Ok(());
        };
        let reasons: Vec<ReasonCode> = results
            .iter()
            .map(|result| match result {
                Ok(Qos::AtMostOnce) => ReasonCode::Success,
                Ok(Qos::AtLeastOnce) => ReasonCode::GrantedQos1,
                Ok(Qos::ExactlyOnce) => ReasonCode::GrantedQos2,
                Err(refused) => ReasonCode::from(*refused),
            })
            .collect();
        let refused = results.iter().find_map(|result| result.err());
        let text = refused
            .filter(|_| self.problem_information)
            .map(|refused| match refused {
                SubscribeRefused::Invalid(invalid) => format!("a topic filter is invalid: {invalid}"),
                SubscribeRefused::NotAuthorized => "a topic filter is reserved for administrators".to_owned(),
                SubscribeRefused::Quota => "there are too many subscriptions".to_owned(),
            });
        let answers = FilterAnswers {
            packet_id,
            reasons: &reasons,
            reason_string: text.as_deref(),
        };
        sendable(packet::encode_suback(out, self.version, &answers, self.bytes_max))
    }

    pub(super) fn unsuback(
        &self,
        packet_id: u16,
        results: &[Result<bool, InvalidTopic>],
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        let Some(packet_id) = NonZeroU16::new(packet_id) else {
            return Ok(());
        };
        let reasons: Vec<ReasonCode> = results
            .iter()
            .map(|result| match result {
                Ok(true) => ReasonCode::Success,
                Ok(false) => ReasonCode::NoSubscriptionExisted,
                Err(_) => ReasonCode::TopicFilterInvalid,
            })
            .collect();
        let answers = FilterAnswers {
            packet_id,
            reasons: &reasons,
            reason_string: None,
        };
        sendable(packet::encode_unsuback(out, self.version, &answers, self.bytes_max))
    }
}

/// A client that cannot be answered would wait for ever.
fn sendable(fits: bool) -> Result<(), End> {
    if fits {
        return Ok(());
    }
    Err(End::Refused(Malformed::because(
        ReasonCode::PacketTooLarge,
        "the answer is larger than the client takes",
    )))
}
