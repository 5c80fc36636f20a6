//! Which training images each step sees: passes over all of them, each in an order of its own, one behind the other.

use tch::{Device, Kind, Tensor};

use crate::tuning::{seeded, stream};

/// The steps of one epoch, which is a pass, or a number of steps that run on from pass to pass.
#[derive(Debug)]
pub(super) struct Order {
    seed: i64,
    /// In a pass.
    images: u64,
    batch: u64,
    /// The part of the sequence of all passes that the epoch sees.
    from: u64,
    until: u64,
    /// The pass that was drawn last, and its number.
    pass: Option<(u64, Vec<i64>)>,
}

impl Order {
    /// Of epoch `epoch`, from 0, with `steps` steps or, without, as many as a pass takes.
    pub(super) fn new(seed: i64, epoch: u64, images: i64, batch: u32, steps: Option<u32>) -> Order {
        let (images, batch) = (images.unsigned_abs(), u64::from(batch));
        let length = steps.map_or(images, |steps| u64::from(steps) * batch);
        Order { seed, images, batch, from: epoch * length, until: (epoch + 1) * length, pass: None }
    }

    /// Images that the epoch sees, those that it sees again counted again.
    pub(super) fn seen(&self) -> u64 {
        self.until - self.from
    }

    pub(super) fn steps(&self) -> u64 {
        self.seen().div_ceil(self.batch)
    }

    /// The images of a step, i64 `[B]` on the CPU.
    pub(super) fn batch(&mut self, step: u64) -> Tensor {
        let from = self.from + step * self.batch;
        let index: Vec<i64> = (from..(from + self.batch).min(self.until)).map(|at| self.image(at)).collect();
        Tensor::from_slice(&index)
    }

    fn image(&mut self, at: u64) -> i64 {
        let (pass, place) = (at / self.images, (at % self.images) as usize);
        match &self.pass {
            Some((drawn, order)) if *drawn == pass => order[place],
            _ => {
                let order = seeded(stream(self.seed, "order", pass), || {
                    Tensor::randperm(self.images as i64, (Kind::Int64, Device::Cpu))
                });
                let order = Vec::<i64>::try_from(order).expect("a vector of indices");
                let image = order[place];
                self.pass = Some((pass, order));
                image
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u64, steps: Option<u32>) -> Vec<Vec<i64>> {
        let mut order = Order::new(7, epoch, 5, 2, steps);
        (0..order.steps()).map(|step| Vec::try_from(order.batch(step)).unwrap()).collect()
    }

    #[test]
    fn an_epoch_is_a_pass_in_an_order_of_its_own() {
        let (first, second) = (epoch(0, None), epoch(1, None));
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_ne!(first, second);
        for pass in [first, second] {
            let mut all = pass.concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn epochs_of_so_many_steps_see_the_same_passes() {
        let passes: Vec<i64> = (0..12).flat_map(|pass| epoch(pass, None).concat()).collect();
        for steps in [1, 2, 3, 7] {
            let run_on: Vec<i64> = (0..4).flat_map(|e| epoch(e, Some(steps)).concat()).collect();
            assert_eq!(run_on, passes[..4 * 2 * steps as usize], "{steps}");
        }
        assert!(epoch(2, Some(7)).iter().all(|batch| batch.len() == 2));
    }

    #[test]
    fn a_step_is_the_same_whatever_was_asked_before() {
        let whole = epoch(1, Some(4));
        for step in 0..4 {
            let alone = Order::new(7, 1, 5, 2, Some(4)).batch(step);
            assert_eq!(Vec::<i64>::try_from(alone).unwrap(), whole[step as usize]);
        }
    }
}
