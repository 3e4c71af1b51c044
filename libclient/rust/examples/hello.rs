//! The shortest program: connects, or starts a private daemon, and computes tanh(2 x).

use tensord_client::{Elementwise, Options, Session};

fn main() -> Result<(), tensord_client::Error> {
    let session = Session::connect(Options::default())?;
    let x = session.tensor(&[0.0f32, 0.5, 1.0, 2.0], &[4])?;
    let y = x.scalar(Elementwise::Mul, 2.0)?.unary(Elementwise::Tanh)?;
    println!(
        "tanh(2 x) = {:?} on {}",
        y.to_vec::<f32>()?,
        session.info().welcome.device_name
    );
    Ok(())
}
