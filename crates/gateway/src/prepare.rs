//! From a request's head to what an instance will be sent: checks, route, policies, headers.

use std::rc::Rc;

use crate::{
    compiled::Compiled,
    fault::Fault,
    grpc,
    h1::{
        Destination, FieldKind, Framing, RequestHead, push_announcement, push_number,
        push_protocols,
    },
    matcher::Question,
    mirror::Mirror,
    path,
    record::Record,
    route::{Auth, Route},
    scratch::Scratch,
    server::Client,
    timer::Millis,
    trace,
    upstream::Service,
    variables::Values,
    worker::{Table, Worker},
};

/// A request that may be forwarded.
pub(crate) struct Plan {
    table: Rc<Table>,
    route: usize,
    backend: usize,
    service: Rc<Service>,
    /// The client is told to come back to the same backend.
    tells_backend: bool,
    pub(crate) framing: Framing,
    /// The body's framing towards the instance.
    pub(crate) chunked: bool,
    pub(crate) to_head: bool,
    pub(crate) minor: u8,
    pub(crate) idempotent: bool,
    /// The instance is offered another protocol.
    pub(crate) upgrade: bool,
    /// It is a gRPC call.
    pub(crate) call: Option<Call>,
}

/// What a gRPC call asks for.
pub(crate) struct Call {
    /// When it must be over.
    pub(crate) due: Millis,
}

impl Plan {
    pub(crate) fn route(&self) -> &Route {
        &self.compiled().route
    }

    fn compiled(&self) -> &Compiled {
        &self.table.snapshot.routes[self.route].compiled
    }

    pub(crate) fn service(&self) -> &Rc<Service> {
        &self.service
    }

    /// Who gets a copy of the request, if anybody may.
    pub(crate) fn mirror(&self, worker: &Worker) -> Option<(&Mirror, &Rc<Service>)> {
        let entry = &self.table.snapshot.routes[self.route];
        let target = entry.mirror.filter(|_| !self.upgrade)?;
        let mirror = entry.compiled.route.mirror.as_ref()?;
        Some((mirror, worker.service(&self.table, target)))
    }

    /// A header line for the client, or nothing.
    pub(crate) fn own_line(&self) -> &[u8] {
        match &self.compiled().backends {
            Some(backends) if self.tells_backend => backends.list[self.backend].set_cookie(),
            _ => b"",
        }
    }

    /// Whether some of the request's body is still with the client.
    pub(crate) fn request_left(&self) -> bool {
        !self.framing.body.is_done()
    }
}

/// A request that was here this often runs in a circle.
const MOST_PASSES: usize = 5;
const VIA: &str = "1.1 sinew";

/// Takes the head of `length` bytes out of the input and makes a plan of it.
pub(crate) fn prepare(
    worker: &Worker,
    client: &Client,
    scratch: &mut Scratch,
    length: usize,
    record: &mut Record,
) -> Result<Plan, Fault> {
    scratch.forget();
    let most_headers = worker.shared.config.limits.headers;
    let parsed = scratch
        .head
        .parse(&scratch.input.unread()[..length], most_headers);
    scratch.input.consume(length);
    trace::request_id(&scratch.head, &worker.random, &mut scratch.request_id);
    parsed?;

    let framing = scratch.head.framing()?;
    if matches!(scratch.head.method(), "CONNECT" | "TRACE") {
        return Err(Fault::method_refused());
    }
    let Scratch {
        head,
        host,
        path,
        query,
        ..
    } = &mut *scratch;
    let destination = head.destination()?;
    if let Some(authority) = destination.authority {
        host.extend(authority.host.chars().map(|c| c.to_ascii_lowercase()));
    }
    canonical_target(destination.path_and_query, path, query)?;
    if worker.shared.redirects && client.stream.tls().is_none() {
        return Err(Fault::tls_required(
            host,
            worker.shared.tls_port,
            path,
            query,
        ));
    }

    let table = worker.table();
    let asked = Question {
        host,
        path,
        query,
        method: head.method(),
        source: client.peer.ip(),
        fields: &*head,
    };
    let route = table
        .snapshot
        .router
        .find(&asked)
        .ok_or_else(Fault::no_route)?;
    let entry = &table.snapshot.routes[route];
    let (backend, tells_backend) = match &entry.compiled.backends {
        Some(backends) => backends.choose(&*head, || worker.random.next()),
        None => (0, false),
    };
    record.routed(&table, route, backend);
    let upgrade = head.asks_for_upgrade();
    let passes = head
        .values(FieldKind::Via)
        .flat_map(|via| via.split(|b| *b == b','));
    if passes
        .filter(|member| member.trim_ascii() == VIA.as_bytes())
        .count()
        >= MOST_PASSES
    {
        return Err(Fault::loop_detected());
    }
    let mut identity = None;
    for proof in &entry.compiled.route.auth {
        match proof {
            Auth::ClientCertificate if client.certified => {}
            Auth::ClientCertificate => return Err(Fault::client_certificate_required()),
            Auth::Jwt => identity = Some(worker.auth.check(head, worker.clock.now())?),
        }
    }
    let Some(target) = entry.backends[backend].target else {
        return Err(own_answer(&entry.compiled, &asked));
    };
    let service = worker.service(&table, target).clone();
    let plan = Plan {
        chunked: framing.body.is_chunked(),
        to_head: head.method() == "HEAD",
        minor: head.minor,
        // Whoever offers another protocol may have begun to speak it.
        idempotent: head.idempotent() && !upgrade,
        upgrade,
        call: grpc::is_call(head).then(|| Call {
            due: grpc::timeout(head).map_or(Millis::MAX, |time| client.timer.now() + time),
        }),
        table,
        route,
        backend,
        service,
        tells_backend,
        framing,
    };
    let limit = plan.route().max_body;
    if plan
        .framing
        .body
        .left()
        .is_some_and(|length| length > limit)
    {
        return Err(Fault::body_too_large(limit));
    }

    render(worker, client, scratch, &plan)?;
    if let Some(identity) = identity {
        scratch.request.extend_from_slice(identity.lines());
    }
    push_hop_fields(&scratch.head, &plan, &mut scratch.request);
    match plan.framing.body.left() {
        Some(length)
            if length > 0
                || scratch
                    .head
                    .values(FieldKind::ContentLength)
                    .next()
                    .is_some() =>
        {
            scratch.request.extend_from_slice(b"content-length: ");
            push_number(length, &mut scratch.request);
            scratch.request.extend_from_slice(b"\r\n\r\n");
        }
        Some(_) => scratch.request.extend_from_slice(b"\r\n"),
        None => scratch
            .request
            .extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
    }
    Ok(plan)
}

/// What a route that does not forward says.
fn own_answer(route: &Compiled, asked: &Question<'_>) -> Fault {
    let Question {
        host, path, query, ..
    } = *asked;
    let regex = route.regex.as_ref();
    let Some(answer) = &route.answer else {
        return Fault::no_route();
    };
    answer
        .fault(Values { host, path, regex }, query)
        .unwrap_or_else(|fault| fault)
}

/// Takes the body of a request that is not forwarded out of the input, if all of it is there.
pub(crate) fn skip_body(scratch: &mut Scratch) -> bool {
    let Ok(framing) = scratch.head.framing() else {
        return false;
    };
    match framing.body.left().map(usize::try_from) {
        Some(Ok(length)) if length <= scratch.input.len() && framing.keep_alive => {
            scratch.input.consume(length);
            true
        }
        _ => false,
    }
}

fn canonical_target(target: &[u8], path: &mut String, query: &mut String) -> Result<(), Fault> {
    let question = memchr::memchr(b'?', target);
    let (raw_path, raw_query) = match question {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    let refused = |refusal: path::Refusal| Fault::path_refused(refusal.why());
    let mut bytes = std::mem::take(path).into_bytes();
    path::canonicalise(raw_path, &mut bytes).map_err(refused)?;
    *path = String::from_utf8(bytes).expect("canonical paths are ASCII");
    if let Some(raw_query) = raw_query {
        let mut bytes = std::mem::take(query).into_bytes();
        bytes.push(b'?');
        path::canonicalise_query(raw_query, &mut bytes).map_err(refused)?;
        *query = String::from_utf8(bytes).expect("canonical queries are ASCII");
    }
    Ok(())
}

/// Writes the head for the instance but for its last lines.
fn render(
    worker: &Worker,
    client: &Client,
    scratch: &mut Scratch,
    plan: &Plan,
) -> Result<(), Fault> {
    let Scratch {
        head,
        path,
        query,
        host,
        request,
        request_id,
        trace_at,
        ..
    } = scratch;
    let host_text = match head.destination() {
        Ok(Destination {
            host_text: Some(text),
            ..
        }) => text,
        _ => plan.service().name.as_str().as_bytes(),
    };
    let to = request;
    to.clear();
    put(to, &[head.method().as_bytes(), b" "]);
    let route = plan.compiled();
    match (&route.rewrite, &route.route.strip_prefix) {
        (Some(rewrite), _) => {
            let regex = route.regex.as_ref();
            rewrite.push(Values { host, path, regex }, to)?;
        }
        (None, Some(prefix)) => {
            let rest = &path[prefix.len()..];
            if !rest.starts_with('/') {
                to.push(b'/');
            }
            to.extend_from_slice(rest.as_bytes());
        }
        (None, None) => to.extend_from_slice(path.as_bytes()),
    }
    put(
        to,
        &[query.as_bytes(), b" HTTP/1.1\r\nhost: ", host_text, b"\r\n"],
    );

    let trace = trace::context(head);
    push_fields(head, trace.is_some(), to);

    put(
        to,
        &[
            client.forwarding.as_bytes(),
            b";host=\"",
            host_text,
            b"\"\r\n",
        ],
    );
    put(
        to,
        &[
            b"x-forwarded-host: ",
            host_text,
            b"\r\nvia: ",
            VIA.as_bytes(),
            b"\r\n",
        ],
    );
    if let Some(prefix) = &plan.route().strip_prefix {
        put(to, &[b"x-forwarded-prefix: ", prefix.as_bytes(), b"\r\n"]);
    }
    put(to, &[b"x-request-id: ", request_id.as_bytes(), b"\r\n"]);
    if trace.is_none() {
        *trace_at = Some(trace::push_new_context(&worker.random, to));
    }
    Ok(())
}

/// Appends the client's fields that pass.
fn push_fields(head: &RequestHead, traced: bool, to: &mut Vec<u8>) {
    let connection = head.values(FieldKind::Connection).next().is_some();
    for (kind, name, value) in head.fields() {
        let passes = match kind {
            FieldKind::Other => !(connection && head.connection_names(name)),
            FieldKind::EndToEnd
            | FieldKind::Authorization
            | FieldKind::IdempotencyKey
            | FieldKind::Via
            | FieldKind::Date => true,
            FieldKind::TraceParent | FieldKind::TraceState => traced,
            FieldKind::Host
            | FieldKind::ContentLength
            | FieldKind::TransferEncoding
            | FieldKind::Connection
            | FieldKind::Upgrade
            | FieldKind::Expect
            | FieldKind::Te
            | FieldKind::Trailer
            | FieldKind::HopByHop
            | FieldKind::Forwarding
            | FieldKind::Identity
            | FieldKind::RequestId
            | FieldKind::Twin => false,
        };
        if passes {
            put(to, &[name, b": ", value, b"\r\n"]);
        }
    }
}

/// Appends what the gateway asks of the instance because the client asks it of the gateway.
fn push_hop_fields(head: &RequestHead, plan: &Plan, to: &mut Vec<u8>) {
    const ASKING: [FieldKind; 4] = [
        FieldKind::Upgrade,
        FieldKind::Te,
        FieldKind::Trailer,
        FieldKind::Expect,
    ];
    if !head.has_any(&ASKING) {
        return;
    }
    if plan.framing.expects_continue {
        put(to, &[b"expect: 100-continue\r\n"]);
    }
    if plan.chunked {
        push_announcement(head.values(FieldKind::Trailer), to);
    }
    let trailers = plan.minor == 1 && head.takes_trailers();
    match (plan.upgrade, trailers) {
        (true, true) => put(to, &[b"te: trailers\r\nconnection: upgrade, te\r\n"]),
        (true, false) => put(to, &[b"connection: upgrade\r\n"]),
        (false, true) => put(to, &[b"te: trailers\r\nconnection: te\r\n"]),
        (false, false) => {}
    }
    if plan.upgrade {
        push_protocols(head.offered_protocols(), to);
    }
}

fn put(to: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        to.extend_from_slice(part);
    }
}
