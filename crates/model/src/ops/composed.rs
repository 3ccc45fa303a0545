//! Gradients out of tensor operations, for devices without a loop of their own. The forms are those
//! of the loops beside them; numbers are f32 in between where the type is narrower.

use candle_core::{D, DType, Result, Tensor};

use crate::Activation;

/// `x` and `grad` are `[.., d]`, `w` `[d]`; gives the gradients of both.
pub(crate) fn rms_norm_backward(
    (x, w): (&Tensor, &Tensor),
    grad: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (narrow, dtype) = (x.dtype(), wide(x.dtype()));
    let (rows, d) = (x.shape(), w.dim(0)?);
    let flat = |t: &Tensor| t.detach().contiguous()?.reshape(((), d))?.to_dtype(dtype);
    let (x, grad) = (flat(x)?, flat(grad)?);
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / d as f64)?;
    let r = (mean + eps)?.sqrt()?.recip()?; // [N,1]
    let turned = x.broadcast_mul(&r)?; // x · r
    let grad_w = (&grad * &turned)?.sum(0)?;
    let own = grad.broadcast_mul(&w.detach().to_dtype(dtype)?)?;
    let shared = ((&own * &turned)?.sum_keepdim(D::Minus1)? / d as f64)?;
    let grad_x = (own - turned.broadcast_mul(&shared)?)?.broadcast_mul(&r)?;
    Ok((grad_x.reshape(rows)?.to_dtype(narrow)?, grad_w.to_dtype(w.dtype())?))
}

/// All `[N, ff]`; gives the gradients of gates and ups. Both activations are x · sigmoid(z(x)).
pub(crate) fn glu_backward(
    (gate, up): (&Tensor, &Tensor),
    grad: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    let (narrow, dtype) = (gate.dtype(), wide(gate.dtype()));
    let flat = |t: &Tensor| t.detach().to_dtype(dtype)?.contiguous();
    let (gate, up, grad) = (flat(gate)?, flat(up)?, flat(grad)?);
    let (z, slope) = match activation {
        Activation::Silu => (gate.clone(), gate.ones_like()?),
        Activation::GeluTanh => {
            // 0.5·(1 + tanh(y)) = sigmoid(2·y) with y = √(2/π)·(x + 0.044715·x³)
            let twice = (8.0 / std::f64::consts::PI).sqrt();
            let square = gate.sqr()?;
            let z = ((&square * 0.044_715)? + 1.0)?.mul(&gate)?;
            let slope = (((square * (3.0 * 0.044_715))? + 1.0)? * twice)?;
            ((z * twice)?, slope)
        }
    };
    let s = ((z.neg()?.exp()? + 1.0)?).recip()?;
    let value = (&gate * &s)?;
    let grad_up = (&grad * &value)?;
    // (x·s)' = s·(1 + x·z'·(1 − s))
    let inner = ((gate * slope)? * (1.0 - &s)?)?;
    let grad_gate = (((grad * up)? * s)? * (inner + 1.0)?)?;
    Ok((grad_gate.to_dtype(narrow)?, grad_up.to_dtype(narrow)?))
}

fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    use crate::ops::{glu, rms_norm};

    fn numbers(seed: u64, shape: (usize, usize)) -> Tensor {
        let mut state = seed | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let values: Vec<f64> = std::iter::repeat_with(next).take(shape.0 * shape.1).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn same(a: &Tensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        let error = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert!(error.to_scalar::<f64>().unwrap() < 1e-13, "{error}");
    }

    #[test]
    fn gradients_are_those_of_the_loops_on_the_cpu() {
        let x = Var::from_tensor(&numbers(5, (6, 37))).unwrap();
        let w = Var::from_tensor(&numbers(6, (1, 37)).squeeze(0).unwrap()).unwrap();
        let grad = numbers(7, (6, 37));
        let loss = (rms_norm(&x, &w, 1e-3).unwrap() * &grad).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let (grad_x, grad_w) = rms_norm_backward((&x, &w), &grad, 1e-3).unwrap();
        same(&grad_x, store.get(&x).unwrap());
        same(&grad_w, store.get(&w).unwrap());

        let gate = Var::from_tensor(&(numbers(8, (6, 37)) * 4.0).unwrap()).unwrap();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let loss = (glu(&gate, &x, activation).unwrap() * &grad).unwrap().sum_all().unwrap();
            let store = loss.backward().unwrap();
            let (grad_gate, grad_up) = glu_backward((&gate, &x), &grad, activation).unwrap();
            same(&grad_gate, store.get(&gate).unwrap());
            same(&grad_up, store.get(&x).unwrap());
        }
    }
}
