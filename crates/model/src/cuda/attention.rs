//! Attention over packed sequences, with its gradient.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use device::{
    Attend, AttendBackwardKeys, AttendBackwardQueries, AttentionShape, Pointer, StoreKeys,
};

use super::{contiguous, into_tensor, numbers, size, whole};
use crate::ops::{AttentionPlan, Query};

type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// See `ops::attention`.
pub(crate) fn attention(
    plan: &AttentionPlan,
    (q, q_layout): Operand<'_>,
    k: Operand<'_>,
    v: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    let device = q.device();
    let shape = shape(plan, q.dtype())?;
    let angles = angles(plan)?;
    let keys = stored(plan, shape, (contiguous(k.0, k.1)?, contiguous(v.0, v.1)?), device)?;
    let readers = device::upload(device, &readers(&plan.queries)?)?;
    let out = device::empty(device, q.dtype(), q_layout.shape().elem_count())?;
    let call = Attend {
        out: whole(&out)?,
        q: contiguous(q, q_layout)?,
        q_width: size(plan.heads * plan.head_dim)?,
        readers: whole(&readers)?,
        count: size(plan.queries.len())?,
        keys: whole(&keys.0)?,
        values: whole(&keys.1)?,
        angles: device::of_tensor(&angles)?,
    };
    device::launch(device, &call.call(shape))?;
    Ok((out, q_layout.shape().clone()))
}

/// The gradients of queries, keys and values.
pub(crate) fn attention_backward(
    plan: &AttentionPlan,
    [q, k, v]: [&Tensor; 3],
    res: &Tensor,
    grad: &Tensor,
) -> Result<[Tensor; 3]> {
    let cuda = q.device().as_cuda_device()?;
    let (dtype, shape) = (q.dtype(), shape(plan, q.dtype())?);
    let [q, k, v, res, grad] = [q, k, v, res, grad].map(Tensor::contiguous);
    let (q, k, v, res, grad) = (q?, k?, v?, res?, grad?);
    let angles = angles(plan)?;
    let keys = stored(plan, shape, (device::of_tensor(&k)?, device::of_tensor(&v)?), cuda)?;
    let readers = device::upload(cuda, &readers(&plan.queries)?)?;
    let (seen, order) = seen_by(plan)?;
    let (seen, order) = (device::upload(cuda, &seen)?, device::upload(cuda, &order)?);
    let heads = plan.queries.len() * plan.heads;
    let empty = |dtype, count| device::empty(cuda, dtype, count);
    let grad_q = empty(dtype, q.elem_count())?;
    let (grad_k, grad_v) = (empty(dtype, k.elem_count())?, empty(dtype, v.elem_count())?);
    let (turned, saved) = (empty(DType::F32, q.elem_count())?, empty(DType::F32, 2 * heads)?);
    let queries = AttendBackwardQueries {
        grad_q: whole(&grad_q)?,
        turned: whole(&turned)?,
        saved: whole(&saved)?,
        q: device::of_tensor(&q)?,
        res: device::of_tensor(&res)?,
        grad: device::of_tensor(&grad)?,
        readers: whole(&readers)?,
        count: size(plan.queries.len())?,
        keys: whole(&keys.0)?,
        values: whole(&keys.1)?,
        angles: device::of_tensor(&angles)?,
    };
    device::launch(cuda, &queries.call(shape))?;
    let both = AttendBackwardKeys {
        grad_k: whole(&grad_k)?,
        grad_v: whole(&grad_v)?,
        turned: queries.turned,
        saved: queries.saved,
        grad: queries.grad,
        queries: whole(&seen)?,
        order: whole(&order)?,
        count: size(plan.key_positions.len())?,
        keys: queries.keys,
        values: queries.values,
        angles: queries.angles,
    };
    device::launch(cuda, &both.call(shape))?;
    Ok([
        into_tensor(grad_q, q.shape().clone()),
        into_tensor(grad_k, k.shape().clone()),
        into_tensor(grad_v, v.shape().clone()),
    ])
}

fn shape(plan: &AttentionPlan, dtype: DType) -> Result<AttentionShape> {
    check_head(plan.head_dim)?;
    Ok(AttentionShape {
        heads: size(plan.heads)?,
        kv_heads: size(plan.kv_heads)?,
        head_dim: size(plan.head_dim)?,
        head_rows: size(plan.key_positions.len())?,
        // A window beyond every position is none.
        window: u32::try_from(plan.window).unwrap_or(0),
        scale: plan.scale as f32,
        numbers: numbers(dtype)?,
    })
}

pub(super) fn check_head(head_dim: usize) -> Result<()> {
    match AttentionShape::fits(head_dim) {
        true => Ok(()),
        false => bail!("heads of {head_dim} numbers are not built for cuda: compute on the cpu"),
    }
}

/// The kernels read angles in f32 whatever the rest is.
fn angles(plan: &AttentionPlan) -> Result<Tensor> {
    plan.angles.to_dtype(DType::F32)?.contiguous()
}

/// Turned keys and values `[KH, N, hd]`.
fn stored(
    plan: &AttentionPlan,
    shape: AttentionShape,
    (k, v): (Pointer, Pointer),
    device: &CudaDevice,
) -> Result<(CudaStorage, CudaStorage)> {
    let (n, width) = (plan.key_positions.len(), plan.kv_heads * plan.head_dim);
    let dtype = match shape.numbers {
        device::Numbers::F32 => DType::F32,
        device::Numbers::Bf16 => DType::BF16,
        device::Numbers::F16 => DType::F16,
    };
    let keys = device::empty(device, dtype, n * width)?;
    let values = device::empty(device, dtype, n * width)?;
    let angles = angles(plan)?;
    let mut tokens = Vec::with_capacity(2 * n);
    for (i, position) in plan.key_positions.iter().enumerate() {
        tokens.extend([size(i)?, size(*position)?]);
    }
    let tokens = device::upload(device, &tokens)?;
    let call = StoreKeys {
        keys: whole(&keys)?,
        values: whole(&values)?,
        k,
        k_width: size(width)?,
        v,
        v_width: size(width)?,
        tokens: whole(&tokens)?,
        count: size(n)?,
        angles: device::of_tensor(&angles)?,
    };
    device::launch(device, &call.call(shape))?;
    Ok((keys, values))
}

fn readers(queries: &[Query]) -> Result<Vec<u32>> {
    let mut table = Vec::with_capacity(3 * queries.len());
    for (row, query) in queries.iter().enumerate() {
        table.extend([size(row)?, size(query.first)?, size(query.position)?]);
    }
    Ok(table)
}

/// For each key where in `order` the queries that see it begin and end, and its position; the
/// queries are ordered by text and position, so that those are neighbours.
fn seen_by(plan: &AttentionPlan) -> Result<(Vec<u32>, Vec<u32>)> {
    let queries = &plan.queries;
    let place = |query: &Query| (query.first, query.position);
    let mut order: Vec<usize> = (0..queries.len()).collect();
    order.sort_by_key(|i| place(&queries[*i]));
    let below =
        |place_of: (usize, usize)| order.partition_point(|i| place(&queries[*i]) < place_of);
    let mut seen = Vec::with_capacity(3 * plan.key_positions.len());
    for (key, position) in plan.key_positions.iter().enumerate() {
        let first = key - position;
        let end = position.saturating_add(plan.window);
        seen.extend([size(below((first, *position)))?, size(below((first, end)))?]);
        seen.push(size(*position)?);
    }
    let order = order.into_iter().map(size).collect::<Result<_>>()?;
    Ok((seen, order))
}
