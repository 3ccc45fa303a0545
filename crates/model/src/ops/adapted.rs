//! x·Wᵀ + b with a change of low rank beside a weight that is not trained. Written as operations of the
//! graph it would keep three results as wide as the layer for the backward pass; here it keeps one.

use std::sync::Mutex;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::linear;

/// x·Wᵀ + b + scale · (x·Aᵀ)·Bᵀ (arXiv 2106.09685, eq. 3). `x` is `[N,in]`, `weight` `[out,in]`, `bias`
/// `[out]`, `a` `[rank,in]`, `b` `[out,rank]`, all of one type; no gradient reaches weight and bias. Gives
/// `[N,out]`.
pub(crate) fn adapted_linear(
    x: &Tensor,
    (weight, bias): (&Tensor, Option<&Tensor>),
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let (weight, bias) = (weight.detach(), bias.map(Tensor::detach));
    let x = x.contiguous()?;
    let y = {
        let (x, a, b) = (x.detach(), a.detach(), b.detach());
        let change = (x.matmul(&a.t()?)? * scale)?.matmul(&b.t()?)?;
        (linear(&x, &weight, bias.as_ref())? + change)?
    };
    x.apply_op3(a, b, Adapted { y: Mutex::new(Some(y)), weight, scale })
}

struct Adapted {
    /// What it gives, taken when it is given.
    y: Mutex<Option<Tensor>>,
    weight: Tensor,
    scale: f64,
}

impl Adapted {
    fn take(&self) -> Result<Tensor> {
        let mut y = self.y.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match y.take() {
            Some(y) => y.contiguous(),
            None => bail!("{} gives its result once", self.name()),
        }
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.take()?;
        let (storage, layout) = y.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{} needs one device", self.name()) };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let y = self.take()?;
        let (storage, layout) = y.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("{} needs one device", self.name()) };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = x.track_op();
        let (x, a, b) = (x.detach(), a.detach(), b.detach());
        let grad = grad.contiguous()?;
        let through_b = (grad.matmul(&b)? * self.scale)?; // [N,rank]
        let grad_a = through_b.t()?.matmul(&x)?;
        let grad_b = (grad.t()?.matmul(&x.matmul(&a.t()?)?)? * self.scale)?;
        let grad_x = match wanted {
            true => Some((grad.matmul(&self.weight)? + through_b.matmul(&a)?)?),
            false => None,
        };
        Ok((grad_x, Some(grad_a), Some(grad_b)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn numbers(seed: usize, shape: (usize, usize)) -> Tensor {
        let value = |at: usize| ((at * 7919 + seed * 104_729) % 1009) as f64 / 504.5 - 1.0;
        let values: Vec<f64> = (0..shape.0 * shape.1).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.dims(), b.dims());
        let largest = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        largest.to_scalar().unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_the_graph() {
        let (n, input, out, rank, scale) = (5, 7, 11, 3, 1.75);
        let weight = numbers(1, (out, input));
        let bias = numbers(2, (1, out)).squeeze(0).unwrap();
        let a = Var::from_tensor(&numbers(3, (rank, input))).unwrap();
        let b = Var::from_tensor(&numbers(4, (out, rank))).unwrap();
        let x = Var::from_tensor(&numbers(5, (n, input))).unwrap();
        let slope = numbers(6, (n, out));
        let plain = |x: &Tensor| {
            let change = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
            let y = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
            (y + (change * scale).unwrap()).unwrap()
        };
        let adapted =
            |x: &Tensor| adapted_linear(x, (&weight, Some(&bias)), (&a, &b), scale).unwrap();
        let gradients = |y: Tensor| (y * &slope).unwrap().sum_all().unwrap().backward().unwrap();

        assert!(apart(&adapted(&x), &plain(&x)) < 1e-12);
        let (found, expected) = (gradients(adapted(&x)), gradients(plain(&x)));
        for variable in [&x, &a, &b] {
            let (found, expected) = (found.get(variable).unwrap(), expected.get(variable).unwrap());
            assert!(apart(found, expected) < 1e-11);
        }
        // Of what is not trained no gradient is made.
        let fixed = x.detach();
        let found = gradients(adapted(&fixed));
        assert!(found.get(&fixed).is_none());
        assert!(apart(found.get(&a).unwrap(), expected.get(&a).unwrap()) < 1e-11);
    }
}
