//! The AWS JSON protocols, and as much of the older one as STS needs: which operation a request
//! names, and the form of each service's errors.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response, StatusCode, header::HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::sts;

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// AWS JSON 1.0, `X-Amz-Target: AmazonSQS.…`.
    Sqs,
    /// AWS JSON 1.1, `X-Amz-Target: SageMaker.…`.
    SageMaker,
    /// AWS Query: a form with `Action=…`, answered with XML.
    Sts,
}

/// What a request asks for, from its `X-Amz-Target` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: Service,
    /// `ReceiveMessage`, `StartPipelineExecution`, …; not checked to exist.
    pub operation: String,
}

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub status: u16,
    /// The shape's name: `__type`, by which botocore selects the exception's class.
    pub code: String,
    /// The value of SQS's `x-amzn-query-error` if it differs from the shape: the code of its older
    /// protocol, by which SDKs still classify its errors.
    pub query_code: Option<&'static str>,
    pub message: String,
}

impl Target {
    /// Reads `X-Amz-Target`; without it, the body's `Action` if it is one of STS.
    ///
    /// # Errors
    /// A missing header, or one that names another service, with a message that says what is
    /// available here.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, ApiError> {
        if let Some(operation) = sts::operation(headers, body) {
            return Ok(Self { service: Service::Sts, operation: operation.to_owned() });
        }
        let text = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).ok_or_else(|| {
            ApiError::new(
                "MissingAction",
                "no X-Amz-Target header: this endpoint speaks the AWS JSON protocols only; use a \
                 newer SDK",
            )
        })?;
        let (service, operation) = match text.split_once('.') {
            Some(("AmazonSQS", operation)) => (Service::Sqs, operation),
            Some(("SageMaker", operation)) => (Service::SageMaker, operation),
            _ => {
                let message = format!(
                    "{text:?} is not served here: only AmazonSQS and SageMaker Pipelines are"
                );
                return Err(ApiError::new("UnknownOperationException", message));
            }
        };
        Ok(Self { service, operation: operation.to_owned() })
    }
}

impl ApiError {
    /// An error with HTTP status 400, as all modelled errors of both services have.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: 400, code: code.into(), query_code: None, message: message.into() }
    }

    pub fn unknown_operation(operation: &str) -> Self {
        Self::new(
            "UnknownOperationException",
            format!("the local endpoint does not serve {operation}"),
        )
    }

    /// The code that SDKs report.
    pub fn reported_code(&self) -> &str {
        self.query_code.unwrap_or(&self.code)
    }
}

impl Service {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Sqs => "application/x-amz-json-1.0",
            Self::SageMaker => "application/x-amz-json-1.1",
            Self::Sts => "text/xml",
        }
    }
}

/// Parses a request's body into the operation's input.
///
/// # Errors
/// `SerializationException` if it is not JSON, or if a member has the wrong type.
pub(super) fn input<T: DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    serde_json::from_value(body)
        .map_err(|error| ApiError::new("SerializationException", error.to_string()))
}

/// The body as JSON; an empty one stands for an empty object.
///
/// # Errors
/// `SerializationException` if it is not a JSON object.
pub(super) fn body(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(bytes) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(ApiError::new("SerializationException", "the body is not a JSON object")),
        Err(error) => Err(ApiError::new("SerializationException", error.to_string())),
    }
}

/// The HTTP response for an operation's answer.
pub(super) fn respond(
    service: Service,
    request_id: &str,
    answer: &Result<Value, ApiError>,
) -> Response<Full<Bytes>> {
    let (status, payload) = match answer {
        Ok(output) if service == Service::Sts => (200, sts::xml(output, request_id)),
        Err(error) if service == Service::Sts => (error.status, sts::error(error, request_id)),
        Ok(Value::Null) => (200, String::new()),
        Ok(output) => (200, output.to_string()),
        Err(error) => (error.status, error_body(service, error).to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(payload)));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(service.content_type()));
    insert(headers, "x-amzn-requestid", request_id);
    if let (Service::Sqs, Err(error)) = (service, answer) {
        let fault = if error.status < 500 { "Sender" } else { "Receiver" };
        insert(headers, "x-amzn-query-error", &format!("{};{fault}", error.reported_code()));
    }
    response
}

/// SageMaker's modelled errors spell their member `Message`; everything else says `message`.
fn error_body(service: Service, error: &ApiError) -> Value {
    match (service, error.code.as_str()) {
        (Service::Sqs, code) => {
            json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": error.message})
        }
        (
            Service::SageMaker,
            code @ ("ConflictException" | "ResourceNotFound" | "ResourceLimitExceeded"),
        ) => {
            json!({"__type": code, "Message": error.message})
        }
        (Service::SageMaker | Service::Sts, code) => {
            json!({"__type": code, "message": error.message})
        }
    }
}

/// A value that no header can contain (a fault rule may name any code) is left out.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &'static str) -> Result<Target, ApiError> {
        let name = hyper::header::HeaderName::from_static("x-amz-target");
        Target::read(&HeaderMap::from_iter([(name, HeaderValue::from_static(text))]), b"{}")
    }

    #[test]
    fn a_target_names_the_service_and_the_operation() {
        let expected = Target { service: Service::Sqs, operation: "SendMessage".to_owned() };
        assert_eq!(target("AmazonSQS.SendMessage"), Ok(expected));
        let expected =
            Target { service: Service::SageMaker, operation: "ListPipelines".to_owned() };
        assert_eq!(target("SageMaker.ListPipelines"), Ok(expected));
    }

    #[test]
    fn another_service_is_refused_by_name() {
        let error = target("DynamoDB_20120810.PutItem").expect_err("not served");
        assert!(error.message.contains("DynamoDB_20120810.PutItem"), "{error}");
        assert!(Target::read(&HeaderMap::new(), b"Action=ListQueues").is_err());
    }

    #[test]
    fn an_sqs_error_bears_its_older_code_in_the_header_and_its_shape_in_the_body() {
        let mut error = ApiError::new("QueueDoesNotExist", "no such queue");
        error.query_code = Some("AWS.SimpleQueueService.NonExistentQueue");
        let response = respond(Service::Sqs, "id", &Err(error.clone()));
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()["x-amzn-query-error"],
            "AWS.SimpleQueueService.NonExistentQueue;Sender"
        );
        assert_eq!(
            error_body(Service::Sqs, &error)["__type"],
            "com.amazonaws.sqs#QueueDoesNotExist"
        );
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        assert_eq!(body(b""), Ok(json!({})));
        for wrong in ["[]", "{", "1", "\"x\""] {
            assert_eq!(body(wrong.as_bytes()).expect_err(wrong).code, "SerializationException");
        }
    }

    #[test]
    fn a_body_nested_ten_thousand_deep_is_refused_and_overflows_nothing() {
        let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert_eq!(body(deep.as_bytes()).expect_err("too deep").code, "SerializationException");
    }
}
