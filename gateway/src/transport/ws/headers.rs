//! Checks of frame headers that the WebSocket library omits: lengths in their shortest form, and valid close codes.

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const CLOSE: u8 = 8;

/// Follows the frames of one connection.
#[derive(Default)]
pub(super) struct Headers {
    at: At,
}

/// Where a frame is invalid. The library must not get the byte `at`: with it, it would accept the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Why {
    #[error("the length of a frame is not in its shortest form")]
    LongLength,
    #[error("a close frame has the code {0}, which none may have")]
    CloseCode(u16),
}

#[derive(Default)]
enum At {
    #[default]
    First,
    Second {
        opcode: u8,
    },
    /// In a length of `of` bytes, of which `read` were read.
    Length {
        opcode: u8,
        masked: bool,
        of: u8,
        read: u8,
        length: u64,
    },
    Mask {
        opcode: u8,
        length: u64,
        read: u8,
        mask: [u8; 4],
    },
    /// In a close frame's code.
    Code {
        rest: u64,
        mask: [u8; 4],
        high: Option<u8>,
    },
    Payload {
        rest: u64,
    },
}

impl Headers {
    /// Scans the next bytes. Must not be called again after an error.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let mut at = 0;
        while at < bytes.len() {
            if let At::Payload { rest } = &mut self.at {
                let skipped = (*rest).min((bytes.len() - at) as u64);
                *rest -= skipped;
                // At most the length of `bytes`.
                at += skipped as usize;
                if *rest == 0 {
                    self.at = At::First;
                }
                continue;
            }
            self.byte(bytes[at]).map_err(|why| Wrong { at, why })?;
            at += 1;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), Why> {
        self.at = match self.at {
            At::First => At::Second { opcode: byte & 0x0f },
            At::Second { opcode } => {
                let masked = byte & 0x80 != 0;
                let of = match byte & 0x7f {
                    126 => 2,
                    127 => 8,
                    length => {
                        self.at = behind_length(opcode, masked, length.into());
                        return Ok(());
                    }
                };
                At::Length { opcode, masked, of, read: 0, length: 0 }
            }
            At::Length { opcode, masked, of, read, length } => {
                let (length, read) = (length << 8 | u64::from(byte), read + 1);
                if read < of {
                    At::Length { opcode, masked, of, read, length }
                } else if length < if of == 2 { 126 } else { 65_536 } {
                    // RFC 6455, section 5.2: "in all cases, the minimal number of bytes MUST be used to encode the length".
                    return Err(Why::LongLength);
                } else {
                    behind_length(opcode, masked, length)
                }
            }
            At::Mask { opcode, length, read, mut mask } => {
                mask[usize::from(read)] = byte;
                if read < 3 { At::Mask { opcode, length, read: read + 1, mask } } else { behind(opcode, length, mask) }
            }
            At::Code { rest, mask, high: None } => At::Code { rest, mask, high: Some(byte ^ mask[0]) },
            At::Code { rest, mask, high: Some(high) } => {
                let code = u16::from_be_bytes([high, byte ^ mask[1]]);
                // RFC 6455, section 7.4: which codes an endpoint may set.
                if !CloseCode::from(code).is_allowed() {
                    return Err(Why::CloseCode(code));
                }
                payload(rest - 2)
            }
            // Skipped by the caller.
            At::Payload { rest } => At::Payload { rest },
        };
        Ok(())
    }
}

fn behind_length(opcode: u8, masked: bool, length: u64) -> At {
    if masked { At::Mask { opcode, length, read: 0, mask: [0; 4] } } else { behind(opcode, length, [0; 4]) }
}

fn behind(opcode: u8, length: u64, mask: [u8; 4]) -> At {
    if opcode == CLOSE && length >= 2 { At::Code { rest: length, mask, high: None } } else { payload(length) }
}

fn payload(rest: u64) -> At {
    if rest == 0 { At::First } else { At::Payload { rest } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of one frame with this mask; `form` is how many bytes its length has: 0, 2 or 8.
    fn frame(first: u8, form: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match form {
            0 => frame.push(0x80 | payload.len() as u8),
            2 => {
                frame.push(0x80 | 126);
                frame.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn shortest(length: usize) -> u8 {
        match length {
            ..126 => 0,
            126..65_536 => 2,
            _ => 8,
        }
    }

    #[test]
    fn lengths_have_one_form() {
        for (form, length, right) in [
            (0, 0, true),
            (0, 125, true),
            (2, 126, true),
            (2, 65_535, true),
            (8, 65_536, true),
            (2, 0, false),
            (2, 125, false),
            (8, 0, false),
            (8, 65_535, false),
        ] {
            let passed = Headers::default().pass(&frame(0x81, form, &vec![b' '; length]));
            let wrong = Wrong { at: 1 + usize::from(form), why: Why::LongLength };
            assert_eq!(passed, if right { Ok(()) } else { Err(wrong) }, "{length} in {form} bytes");
        }
    }

    #[test]
    fn close_frames_have_codes_that_may_be_sent() {
        for code in [1000_u16, 1001, 1003, 1007, 1011, 1013, 3000, 3999, 4000, 4999] {
            assert_eq!(Headers::default().pass(&frame(0x88, 0, &code.to_be_bytes())), Ok(()), "{code}");
        }
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            let passed = Headers::default().pass(&frame(0x88, 0, &[&code.to_be_bytes()[..], b"why"].concat()));
            assert_eq!(passed, Err(Wrong { at: 7, why: Why::CloseCode(code) }));
        }
        // Without a code, and with half of one, which the library refuses.
        Headers::default().pass(&frame(0x88, 0, &[])).expect("no code");
        Headers::default().pass(&frame(0x88, 0, &[3])).expect("not looked at");
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_how_the_bytes_come(
            lengths in proptest::collection::vec(prop_oneof![0_usize..300, 65_500..65_600_usize], 1..4),
            code: u16, cuts in proptest::collection::vec(1_usize..200, 1..5),
        ) {
            let mut stream = Vec::new();
            for length in lengths {
                stream.extend(frame(0x82, shortest(length), &vec![7; length]));
            }
            stream.extend(frame(0x88, 0, &code.to_be_bytes()));
            let whole = Headers::default().pass(&stream).map_err(|wrong| wrong.why);
            prop_assert_eq!(whole.is_ok(), CloseCode::from(code).is_allowed());
            let (mut headers, mut rest, mut cuts) = (Headers::default(), &stream[..], cuts.iter().cycle());
            let mut pieces = Ok(());
            while !rest.is_empty() && pieces.is_ok() {
                let (piece, behind) = rest.split_at(rest.len().min(*cuts.next().expect("a cycle")));
                pieces = headers.pass(piece).map_err(|wrong| wrong.why);
                rest = behind;
            }
            prop_assert_eq!(pieces, whole);
        }
    }
}
