//! What training begins with: the policy, its variables, and the weights as they are at the start.
//! No tensor is held twice that need not be.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use model::{Decoder, LoraSettings, ModelFiles, Tensors};

pub(super) struct Start {
    pub(super) policy: Decoder,
    /// The model before training, where it is there anyway or asked for.
    pub(super) base: Option<Decoder>,
    pub(super) variables: BTreeMap<String, Var>,
}

impl Start {
    /// All weights are variables. The files' tensors go as they are copied, unless they are the
    /// base or somebody else holds them.
    pub(super) fn whole(files: ModelFiles, keep_base: bool) -> anyhow::Result<Self> {
        let ModelFiles { config, tensors, .. } = files;
        let base = keep_base.then(|| Decoder::new(config.clone(), tensors.clone())).transpose()?;
        let variables = variables(tensors)?;
        Ok(Self { policy: Decoder::new(config, tracked(&variables))?, base, variables })
    }

    /// Adapters are variables. Base and policy share the files' tensors.
    pub(super) fn adapted(
        files: ModelFiles,
        lora: &LoraSettings,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let ModelFiles { config, tensors, .. } = files;
        let adapters = lora.start(&config, seed)?;
        let base = Decoder::new(config, tensors)?;
        let beside =
            |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(base.device())?));
        let adapters: candle_core::Result<Tensors> = adapters.into_iter().map(beside).collect();
        let variables = variables(adapters?)?;
        let policy = base.with_adapters(tracked(&variables), lora)?;
        Ok(Self { policy, base: Some(base), variables })
    }
}

fn variables(tensors: Tensors) -> candle_core::Result<BTreeMap<String, Var>> {
    let variable = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor)?));
    tensors.into_iter().map(variable).collect()
}

fn tracked(variables: &BTreeMap<String, Var>) -> Tensors {
    variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}
