//! The collective of ranks with a CUDA device each, over NCCL. The bytes that name a communicator
//! come from outside; so does the decision to form another one, which every change of the ranks
//! takes: NCCL's membership is fixed.
//!
//! A communicator is bound to a thread, its own here, and works on the device's one stream, so that
//! it sums what the kernels before it have written.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, NcclType, ReduceOp};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, Device, InplaceOp1, Layout, Tensor};
use types::Generation;

use super::{Collective, Lost, shard};

/// Between two looks at whether the device is done.
const LOOK: Duration = Duration::from_micros(100);
/// The thread answers by itself once a deadline has passed; after this much more it is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Names one communicator; rank 0 makes it and the others are told.
pub const NCCL_ID_BYTES: usize = 128;

/// How a rank joins.
#[derive(Clone, Debug)]
pub struct NcclPlan {
    pub rank: usize,
    pub world: usize,
    pub generation: Generation,
    /// The same on all ranks, and of this generation only.
    pub id: [u8; NCCL_ID_BYTES],
    /// Joining, and each call, must end within it.
    pub deadline: Duration,
}

/// One rank of a communicator.
#[derive(Debug)]
pub struct Nccl {
    rank: usize,
    world: usize,
    generation: Generation,
    deadline: Duration,
    /// None once it is given up.
    thread: Option<(SyncSender<Work>, JoinHandle<()>)>,
}

type Work = Box<dyn FnOnce(&Member) -> Verdict + Send>;

/// Whether the communicator is still good.
enum Verdict {
    Good,
    Broken,
}

/// What the thread owns.
struct Member {
    comm: Comm,
    device: CudaDevice,
    plan: NcclPlan,
}

/// A new name for a communicator.
///
/// # Errors
/// NCCL's library is not on this machine.
pub fn nccl_id() -> anyhow::Result<[u8; NCCL_ID_BYTES]> {
    let id = Id::new().map_err(|error| failure("no communicator can be named", &error))?;
    Ok(id.internal().map(|byte| byte as u8))
}

impl Nccl {
    /// Joins the other ranks on this process' device. Returns once all of them are there.
    ///
    /// # Errors
    /// A device without CUDA, no NCCL on this machine, ranks that do not come in time or do not fit.
    pub fn join(plan: NcclPlan, device: &Device) -> anyhow::Result<Self> {
        let NcclPlan { rank, world, generation, deadline, .. } = plan;
        ensure!(rank < world, "rank {rank} is outside the {world} ranks");
        let Device::Cuda(device) = device.clone() else {
            bail!("NCCL sums on CUDA devices only: set compute.device to \"cuda\"");
        };
        let (work, orders) = sync_channel::<Work>(1);
        let (joined, outcome) = sync_channel(1);
        let body = move || member(plan, device, &joined, &orders);
        let name = format!("nccl-{rank}");
        let thread = thread::Builder::new().name(name).spawn(body).context("no thread for NCCL")?;
        match outcome.recv_timeout(deadline) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            // It waits inside NCCL for the missing ranks and ends with the process.
            Err(_) => {
                let limit = deadline.as_millis();
                let error = anyhow!("not all of the {world} ranks have joined within {limit} ms");
                return Err(error.context(Lost { generation }));
            }
        }
        Ok(Self { rank, world, generation, deadline, thread: Some((work, thread)) })
    }

    /// Does something on the communicator's thread. After an error the communicator is aborted, so
    /// that no rank waits for this one.
    fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&Member) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let generation = self.generation;
        let gone =
            || anyhow!("the communicator of generation {generation} was given up: form anew");
        let (work, _) = self.thread.as_ref().ok_or_else(gone)?;
        let (answer, answered) = sync_channel(1);
        let order: Work = Box::new(move |member| {
            let outcome = job(member);
            let verdict = if outcome.is_ok() { Verdict::Good } else { Verdict::Broken };
            // Nobody listens any more where the deadline has passed.
            let _ = answer.send(outcome);
            verdict
        });
        work.send(order).map_err(|_| gone())?;
        let outcome = match answered.recv_timeout(self.deadline + STUCK) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                Err(anyhow!("NCCL does not return: end this process"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("NCCL's thread has panicked")),
        };
        if outcome.is_err() {
            // The thread ends by itself; one that is stuck in NCCL cannot be waited for.
            self.thread = None;
        }
        let outcome = outcome.with_context(|| format!("rank {} over NCCL", self.rank));
        outcome.context(Lost { generation })
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if let Some((work, thread)) = self.thread.take() {
            drop(work);
            // It is idle: nothing was given to it that has not been answered.
            let _ = thread.join();
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        let own = values.to_vec();
        values.copy_from_slice(&self.run(move |member| member.sum(own))?);
        Ok(())
    }

    fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> anyhow::Result<()> {
        let own = values.to_vec();
        values.copy_from_slice(&self.run(move |member| member.sum(own))?);
        Ok(())
    }

    fn reduce_scatter_sum(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        let part = shard(values.len(), self.rank, self.world);
        let all = values.to_vec();
        let own = self.run(move |member| member.scatter(all))?;
        values[part.clone()].copy_from_slice(&own[..part.len()]);
        Ok(())
    }

    fn all_gather(&mut self, values: &mut [f32]) -> anyhow::Result<()> {
        let part = shard(values.len(), self.rank, self.world);
        let (own, len) = (values[part].to_vec(), values.len());
        let all = self.run(move |member| member.gather(own, len))?;
        values.copy_from_slice(&all[..values.len()]);
        Ok(())
    }

    fn sums_on_device(&self) -> bool {
        true
    }

    fn all_reduce_sum_on_device(&mut self, values: &Tensor) -> anyhow::Result<()> {
        let values = values.clone();
        self.run(move |member| {
            values.inplace_op1(&SumOf(member))?;
            member.wait()
        })
    }

    fn barrier(&mut self) -> anyhow::Result<()> {
        self.run(|member| member.sum(vec![0.0f32])).map(drop)
    }
}

/// The body of the thread. Leaving it aborts the communicator, which ends the calls of other ranks
/// that wait for this one.
fn member(
    plan: NcclPlan,
    device: CudaDevice,
    joined: &SyncSender<anyhow::Result<()>>,
    orders: &Receiver<Work>,
) {
    let id = Id::uninit(plan.id.map(|byte| byte as std::ffi::c_char));
    let comm = match Comm::from_rank(device.cuda_stream(), plan.rank, plan.world, id) {
        Ok(comm) => comm,
        Err(error) => {
            let _ = joined.send(Err(failure("the ranks cannot join", &error)));
            return;
        }
    };
    // Nobody listens any more where the deadline has passed: there is no order then either.
    let _ = joined.send(Ok(()));
    let member = Member { comm, device, plan };
    while let Ok(order) = orders.recv() {
        if let Verdict::Broken = order(&member) {
            return;
        }
    }
}

impl Member {
    fn sum<T>(&self, values: Vec<T>) -> anyhow::Result<Vec<T>>
    where
        T: DeviceRepr + NcclType + Clone + 'static,
    {
        let mut buffer = self.device.clone_htod(&values)?;
        let summed = self.comm.all_reduce_in_place(&mut buffer, &ReduceOp::Sum);
        summed.map_err(|error| failure("all-reduce", &error))?;
        self.fetch(&buffer)
    }

    /// The sums of its own part, padded to that of rank 0.
    fn scatter(&self, mut all: Vec<f32>) -> anyhow::Result<Vec<f32>> {
        let part = all.len().div_ceil(self.plan.world);
        all.resize(part * self.plan.world, 0.0);
        let all = self.device.clone_htod(&all)?;
        let mut own = self.zeros::<f32>(part)?;
        let scattered = self.comm.reduce_scatter(&all, &mut own, &ReduceOp::Sum);
        scattered.map_err(|error| failure("reduce-scatter", &error))?;
        self.fetch(&own)
    }

    /// The parts of all ranks, of `len` numbers together, padded to whole parts.
    fn gather(&self, mut own: Vec<f32>, len: usize) -> anyhow::Result<Vec<f32>> {
        let part = len.div_ceil(self.plan.world);
        own.resize(part, 0.0);
        let own = self.device.clone_htod(&own)?;
        let mut all = self.zeros::<f32>(part * self.plan.world)?;
        let gathered = self.comm.all_gather(&own, &mut all);
        gathered.map_err(|error| failure("all-gather", &error))?;
        self.fetch(&all)
    }

    fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> anyhow::Result<CudaSlice<T>> {
        Ok(self.device.alloc_zeros::<T>(len)?)
    }

    fn fetch<T: DeviceRepr + Clone>(&self, buffer: &CudaSlice<T>) -> anyhow::Result<Vec<T>> {
        self.wait()?;
        Ok(self.device.clone_dtoh(buffer)?)
    }

    /// Until everything on the stream is done. NCCL's kernels spin until all ranks have come; only
    /// an abort ends them before.
    fn wait(&self) -> anyhow::Result<()> {
        let until = Instant::now() + self.plan.deadline;
        let done = self.device.cuda_stream().record_event(None)?;
        while !done.try_is_complete().context("the device has failed")? {
            if Instant::now() >= until {
                bail!(
                    "not all of the {} ranks came within {} ms",
                    self.plan.world,
                    self.plan.deadline.as_millis()
                );
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// In place, over all ranks.
struct SumOf<'a>(&'a Member);

impl InplaceOp1 for SumOf<'_> {
    fn name(&self) -> &'static str {
        "nccl-sum"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("{} needs a buffer on cuda", self.name())
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{} needs a contiguous buffer", self.name())
        };
        let mut buffer = storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        let summed = self.0.comm.all_reduce_in_place(&mut buffer, &ReduceOp::Sum);
        match summed {
            Ok(_) => Ok(()),
            Err(error) => candle_core::bail!("{} failed: {error:?}", self.name()),
        }
    }
}

/// NCCL's errors are numbers.
fn failure(what: &str, error: &NcclError) -> anyhow::Error {
    anyhow!("{what}: NCCL says {error:?} (NCCL_DEBUG=WARN says more)")
}
