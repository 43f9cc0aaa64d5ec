//! Plays scenes to a client: acts as the gateway at real sockets, tells the client what its user does, and checks what the client sends
//! and shows. `docs/examples/README.md` describes scenes and drivers.
//!
//! | module | what it is |
//! | --- | --- |
//! | `scene`, `own`, `pattern` | scenes as files, those of docs/examples, and what a value must be like |
//! | `frames`, `later`, `world` | server frames as a scene gives them, in each encoding, and what the scene leaves out |
//! | `stage`, `carrier` | the listeners, and one connection of the client |
//! | `driver` | the client under test, as a program or inside this process |
//! | `rules` | the rules that hold in every scene |
//! | `play` | one scene, from its first step to the verdict |

mod carrier;
mod driver;
mod frames;
mod later;
mod own;
mod pattern;
mod play;
mod rules;
mod scene;
mod stage;
mod world;

pub use driver::{Client, Driving, Input, Output};
pub use frames::{Outgoing, build};
pub use own::own;
pub use pattern::Names;
pub use play::{Played, Verdict, play};
pub use scene::{Act, InvalidScene, Scene, Step, read};
pub use world::World;
