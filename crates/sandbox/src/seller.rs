//! The seller: takes a request, asks for payment, verifies and settles it, and delivers.
//!
//! The steps of a sale are in the order of the reference servers (x402 §1): read the payment, verify it, make the
//! goods, settle, respond with a receipt. An order that cannot be filled is not settled.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::Address;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tracing::info;

use super::TokenHandle;
use super::catalog::{ARTICLES, Article, Price, Version, index};
use super::goods::{Delivery, Events, OrderError, deliver};
use super::identifier::{Answers, Fingerprint, Recall};
use super::mpp::{self, Problem, Till};
use super::order::{Order, requested_url};
use super::replies::{Content, NoSale, PAYMENT_REQUIRED, challenge, complaint, content, decline, header_value, whole};
use super::rpc;
use super::usdc::DECIMALS;
use super::verify::{Advertised, Presented};
use bursar_core::clock::SharedClock;
use bursar_core::money::Atoms;

/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Everything a sale needs.
pub(crate) struct Seller {
    token: TokenHandle,
    pay_to: Address,
    clock: SharedClock,
    event_pause: Duration,
    deliveries: AtomicU64,
    sales: Mutex<Answers<Sale>>,
    till: Till,
}

/// A settled sale; enough to respond again under the same `payment-identifier`.
#[derive(Clone)]
struct Sale {
    goods: Delivery,
    receipt: Value,
}

impl Seller {
    pub(crate) fn new(
        token: TokenHandle,
        pay_to: Address,
        till: Till,
        clock: SharedClock,
        event_pause: Duration,
    ) -> Self {
        Self {
            token,
            pay_to,
            clock,
            event_pause,
            deliveries: AtomicU64::new(0),
            sales: Mutex::new(Answers::new()),
            till,
        }
    }

    /// Answers one request. The body is read to its end first, so that a 402 never cuts off an upload.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Content>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let response = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => self.route(&head, body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                complaint(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 KiB")
            }
            Err(_) => complaint(StatusCode::BAD_REQUEST, "the body ended early"),
        };
        if head.method == Method::HEAD {
            return response.map(|_| whole(Bytes::new()));
        }
        response
    }

    fn route(&self, head: &Parts, body: Bytes) -> Response<Content> {
        // HEAD is answered like GET, challenge included, as by most servers.
        let method = match &head.method {
            method if method == Method::HEAD => &Method::GET,
            method => method,
        };
        let path = head.uri.path();
        let allowed = match path {
            "/" => Method::GET,
            "/rpc" => Method::POST,
            _ => match ARTICLES.iter().find(|article| article.path == path) {
                Some(article) => article.method.clone(),
                None => return complaint(StatusCode::NOT_FOUND, "no such article; see GET /"),
            },
        };
        if *method != allowed {
            let mut response = complaint(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed here; see the Allow header",
            );
            if let Ok(allowed) = HeaderValue::from_str(allowed.as_str()) {
                response.headers_mut().insert(header::ALLOW, allowed);
            }
            return response;
        }
        match ARTICLES.iter().find(|article| article.path == path) {
            Some(article) => {
                let url = requested_url(head);
                self.sell(&Order {
                    article,
                    head,
                    url,
                    body,
                })
            }
            None if path == "/rpc" => {
                let answer = rpc::answer(&self.token.lock(), self.clock.now(), &body);
                content(StatusCode::OK, "application/json", answer.to_string().into())
            }
            None => content(StatusCode::OK, "text/plain; charset=utf-8", index().into()),
        }
    }

    fn sell(&self, order: &Order<'_>) -> Response<Content> {
        match order.article.price {
            Price::Free => match self.make(order) {
                Ok(goods) => self.hand_over(order.article, goods),
                Err(error) => complaint(StatusCode::BAD_REQUEST, &error.to_string()),
            },
            Price::Paid { version, atoms } => self.sell_over_x402(order, version, atoms),
            Price::Mpp { cents } => self.sell_over_mpp(order, cents),
            Price::Either { atoms, cents } => self.sell_either_way(order, atoms, cents),
        }
    }

    /// Uses the protocol that the payer chose. A 402 offers both.
    fn sell_either_way(&self, order: &Order<'_>, atoms: Atoms, cents: u64) -> Response<Content> {
        let headers = &order.head.headers;
        let over_x402 = headers.contains_key(Version::V2.payment_header());
        let mut response = match (over_x402, mpp::Credential::read(headers).is_some()) {
            (true, true) => {
                return complaint(
                    StatusCode::BAD_REQUEST,
                    "the request carries two payments; send only one",
                );
            }
            (true, false) => self.sell_over_x402(order, Version::V2, atoms),
            (false, _) => self.sell_over_mpp(order, cents),
        };
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            let advertised = self.advertise(order, Version::V2, atoms);
            let x402 = challenge(order, &advertised, Version::V2.nothing_paid());
            let mpp = || self.till.challenge(&mpp::Sale::new(order.article, cents, &order.url));
            let headers = response.headers_mut();
            if let Some(x402) = x402.headers().get(PAYMENT_REQUIRED) {
                headers.entry(PAYMENT_REQUIRED).or_insert_with(|| x402.clone());
            }
            headers.entry(header::WWW_AUTHENTICATE).or_insert_with(mpp);
        }
        response
    }

    fn sell_over_mpp(&self, order: &Order<'_>, cents: u64) -> Response<Content> {
        let sale = mpp::Sale::new(order.article, cents, &order.url);
        let description = order.article.description;
        let verified = mpp::Credential::read(&order.head.headers)
            .unwrap_or(Err(Problem::Required { description }))
            .and_then(|credential| self.till.verify(&sale, &credential));
        let verified = match verified {
            Ok(verified) => verified,
            Err(problem) => return self.till.ask(&sale, &problem),
        };
        let goods = match self.make(order) {
            Ok(goods) => goods,
            Err(error) => return complaint(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match self.till.charge(&sale, &verified) {
            Err(problem) => self.till.ask(&sale, &problem),
            Ok(receipt) => {
                let mut response = self.hand_over(order.article, goods);
                mpp::attach(receipt, response.headers_mut());
                response
            }
        }
    }

    fn advertise(&self, order: &Order<'_>, version: Version, atoms: Atoms) -> Advertised {
        let article = order.article;
        Advertised {
            version,
            amount: atoms,
            pay_to: self.pay_to,
            requirement: article.requirement(version, atoms, self.pay_to),
            resource: article.resource(&order.url),
            extensions: article.extensions(),
        }
    }

    fn sell_over_x402(&self, order: &Order<'_>, version: Version, atoms: Atoms) -> Response<Content> {
        let article = order.article;
        let advertised = self.advertise(order, version, atoms);
        let sale = match Presented::read(&order.head.headers, &advertised) {
            None => return challenge(order, &advertised, version.nothing_paid()),
            Some(Err(refusal)) => Err(NoSale::Refused(refusal)),
            Some(Ok(presented)) => match presented.identifier.clone() {
                None => self.settle(order, &advertised, &presented),
                Some(id) => self.settle_once(order, &advertised, &presented, id),
            },
        };
        match sale {
            Err(no_sale) => decline(order, &advertised, no_sale),
            Ok(Sale { goods, receipt }) => {
                let mut response = self.hand_over(article, goods);
                let headers = response.headers_mut();
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
                headers.insert(version.receipt_header(), header_value(&receipt));
                response
            }
        }
    }

    /// Settles one identified payment at a time, so that a repeat finds the response instead of a used nonce.
    fn settle_once(
        &self,
        order: &Order<'_>,
        advertised: &Advertised,
        presented: &Presented,
        identifier: String,
    ) -> Result<Sale, NoSale> {
        let header = order.head.headers.get(advertised.version.payment_header());
        let fingerprint = Fingerprint::of(
            header.map_or(b"", |value| value.as_bytes()),
            order.head.method.as_str(),
            &order.url,
        );
        let mut sales = self.sales.lock().unwrap_or_else(PoisonError::into_inner);
        match sales.recall(&identifier, fingerprint) {
            Recall::Answered(sale) => Ok(sale),
            Recall::Conflict => Err(NoSale::IdentifierTaken),
            Recall::New => {
                let sale = self.settle(order, advertised, presented)?;
                sales.keep(identifier, fingerprint, sale.clone());
                Ok(sale)
            }
        }
    }

    fn settle(&self, order: &Order<'_>, advertised: &Advertised, presented: &Presented) -> Result<Sale, NoSale> {
        let now = self.clock.now();
        presented
            .verify(advertised, &self.token.lock(), now)
            .map_err(NoSale::Refused)?;
        let goods = self.make(order).map_err(NoSale::Order)?;
        let Presented {
            authorization,
            signature,
            ..
        } = presented;
        let payer = authorization.from;
        // Checked again under the lock that moves the money: of many requests with the same nonce, only one is settled.
        let transaction = self
            .token
            .lock()
            .transfer_with_authorization(authorization, signature, now)
            .map_err(|error| NoSale::Unsettled { error, payer })?;
        info!(
            article = order.article.path,
            amount = authorization.value.decimal(DECIMALS),
            %payer,
            %transaction,
            "sold for sandbox USDC"
        );
        let receipt = json!({
            "success": true,
            "transaction": transaction,
            "network": advertised.version.network(),
            "payer": payer.to_checksum(None),
        });
        Ok(Sale { goods, receipt })
    }

    fn make(&self, order: &Order<'_>) -> Result<Delivery, OrderError> {
        let serial = self.deliveries.fetch_add(1, Ordering::Relaxed) + 1;
        deliver(order.article.good, serial, self.clock.now(), &order.body)
    }

    fn hand_over(&self, article: &Article, goods: Delivery) -> Response<Content> {
        let mut response = content(StatusCode::OK, article.mime_type, Bytes::new());
        *response.body_mut() = match goods {
            Delivery::Whole(bytes) => whole(bytes),
            Delivery::Events(events) => Events::new(events, self.event_pause).boxed(),
        };
        response
    }
}
