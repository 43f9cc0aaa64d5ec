//! The scenes of docs/examples, played to this library on each carrier.

use std::time::Duration;

use carillon_conformance::{Client, Driving, Input, Output, Verdict, own, play};
use futures_util::StreamExt as _;

#[path = "../examples/conformance_driver/main.rs"]
#[expect(dead_code, reason = "an example has a main")]
mod conformance_driver;

const PATIENCE: Duration = Duration::from_secs(30);

fn tcp(input: Input, output: Output) -> Driving {
    on("tcp", input, output)
}

fn web_socket(input: Input, output: Output) -> Driving {
    on("ws", input, output)
}

fn web_socket_json(input: Input, output: Output) -> Driving {
    on("json", input, output)
}

fn on(carrier: &'static str, input: Input, output: Output) -> Driving {
    // An error says that the scene is over.
    Box::pin(async move { drop(conformance_driver::drive(input, output, carrier).await) })
}

async fn plays_all(start: fn(Input, Output) -> Driving) {
    let scenes = own().expect("scenes");
    let client = &Client::Inside(start);
    let played = scenes.iter().map(|scene| async move { (scene, play(scene, client, PATIENCE).await) });
    let mut played = futures_util::stream::iter(played).buffered(8);
    let mut wrong = String::new();
    while let Some((scene, played)) = played.next().await {
        if played.verdict != Verdict::Passed {
            let told = played.told.join("\n    ");
            wrong += &format!("\n{}: {}\n    {told}", scene.name, played.verdict);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn every_scene_passes_on_tcp() {
    plays_all(tcp).await;
}

#[tokio::test]
async fn every_scene_passes_on_a_web_socket() {
    plays_all(web_socket).await;
}

#[tokio::test]
async fn every_scene_passes_on_a_web_socket_with_json() {
    plays_all(web_socket_json).await;
}
