use std::time::Instant;
use carillon_proto::{ShardMap,ShardId,ShardKind,TimelineId,UserId,pb::store::*};
use prost::Message as _;
fn main() {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or("/dev/shm".into())).unwrap();
    let t = Instant::now();
    let mut m = carillon_storage::simulation::Machines::open(dir.path(), ShardMap{directory:2,timeline:2}).unwrap();
    println!("open {:?}", t.elapsed());
    let mut idx=0;
    for round in 0..20 {
        let t = Instant::now();
        m.clear().unwrap();
        let c = t.elapsed();
        let t = Instant::now();
        let tl = TimelineId::Inbox(UserId::new("alice").unwrap());
        for i in 0..100u32 {
            let mut k=[0u8;16]; k[..4].copy_from_slice(&i.to_be_bytes());
            let a = Append{timeline:Some(tl.to_key()), duplicate_key: k.to_vec().into(), time_ms:1, envelope: vec![1;200].into(), new_epoch:5, after_key: Default::default()};
            let cmd = TimelineCommand{op:Some(timeline_command::Op::Append(a))};
            idx+=1;
            m.apply(ShardId{kind:ShardKind::Timeline,index:0}, idx, vec![cmd.encode_to_vec().into()]).unwrap();
        }
        let a = t.elapsed();
        let t = Instant::now();
        for i in 0..100u32 {
            let d = DirectoryCommand{op:Some(directory_command::Op::AdvanceLeaseClock(AdvanceLeaseClock{elapsed_ms:i}))};
            idx+=1;
            m.apply(ShardId::REGISTRY, idx, vec![d.encode_to_vec().into()]).unwrap();
        }
        let d = t.elapsed();
        let t = Instant::now();
        for _ in 0..100 { m.read(ShardId{kind:ShardKind::Timeline,index:0}, &store_request::Op::ReadHead(ReadHead{timeline:Some(tl.to_key()),device:"x".into()})).unwrap(); }
        println!("{round} clear {c:?} 100 appends {a:?} 100 directory {d:?} 100 heads {:?}", t.elapsed());
    }
}
