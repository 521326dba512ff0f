use crate::support::*;

#[test]
fn requests_reach_the_service_and_responses_the_client() {
    let service = Service::answering(|request| {
        ok(&format!(
            "{} {}",
            request.first,
            String::from_utf8_lossy(&request.body)
        ))
    });
    let world = World::of(&[&service]);
    let mut client = world.client();
    client.send("GET /a%7Eb?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!(client.response().text(), "GET /a~b?x=1 HTTP/1.1 ");
    client.send("POST /x HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "POST /x HTTP/1.1 hello");
    client.send("POST /x HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "POST /x HTTP/1.1 hello");
    world.eventually("three requests are counted", |world| {
        world.gateway.stats().requests == 3
    });
    assert_eq!(
        world.metric("sinew_gateway_upstream_connects_total{service=\"app\"}"),
        1.0
    );
}
