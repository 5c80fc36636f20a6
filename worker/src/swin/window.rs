//! Windows of tokens: cutting a grid into them, putting it together, and which positions may see each other.

use tch::{Device, Kind, Tensor};

/// How the rows of prompts meet the rows of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Each sample's windows get its own prompts.
    #[default]
    BatchMajor,
    /// As the VPT code: row r of the windows (sample r / W) gets the prompts of sample r mod B. Samples exchange what is
    /// in their prompt slots, so predictions depend on the batch.
    WindowMajor,
}

/// What a stage's windows are, apart from any weights.
#[derive(Debug)]
pub(super) struct Windows {
    /// Side R of the grid.
    pub(super) side: i64,
    /// Side w of a window.
    pub(super) window: i64,
    /// Row of the bias table for each pair of positions, `[w⁴]`.
    pub(super) offsets: Tensor,
    /// 0 where two positions of a shifted window may see each other, −100 elsewhere, `[W, 1, w², w²]`; `None` where one
    /// window is the whole grid and nothing is shifted.
    pub(super) mask: Option<Tensor>,
}

impl Windows {
    pub(super) fn new(side: i64, window: i64, kind: Kind, device: Device) -> Windows {
        let mask = (side > window).then(|| mask(side, window).to_kind(kind).to_device(device));
        Windows { side, window, offsets: offsets(window).to_device(device), mask }
    }

    /// W.
    pub(super) fn count(&self) -> i64 {
        (self.side / self.window).pow(2)
    }

    /// How far the grid is rolled in shifted blocks.
    pub(super) fn shift(&self) -> i64 {
        self.window / 2
    }

    /// `[N, R, R, C]` → `[N·W, w², C]`, sample by sample.
    pub(super) fn cut(&self, x: &Tensor) -> Tensor {
        let (n, c) = (x.size()[0], x.size()[3]);
        let (g, w) = (self.side / self.window, self.window);
        x.reshape([n, g, w, g, w, c]).transpose(2, 3).reshape([n * g * g, w * w, c])
    }

    /// The inverse of [`Windows::cut`].
    pub(super) fn join(&self, x: &Tensor) -> Tensor {
        let (g, w, c) = (self.side / self.window, self.window, x.size()[2]);
        x.reshape([-1, g, g, w, w, c]).transpose(2, 3).reshape([-1, self.side, self.side, c])
    }
}

impl Order {
    /// Prompts `[K·B, P, C]` for every window, `[K·B·W, P, C]`.
    pub(super) fn spread(self, prompts: &Tensor, members: i64, windows: i64) -> Tensor {
        let (n, p, c) = prompts.size3().expect("prompts have three axes");
        match self {
            Order::BatchMajor => prompts.unsqueeze(1).expand([n, windows, p, c], false),
            Order::WindowMajor => {
                let batch = n / members;
                let own = prompts.reshape([members, 1, batch, p, c]);
                own.expand([members, windows, batch, p, c], false)
            }
        }
        .reshape([n * windows, p, c])
    }

    /// The mean over windows of what left them, `[K·B·W, P, C]` → `[K·B, P, C]`.
    pub(super) fn gather(self, prompts: &Tensor, members: i64, windows: i64) -> Tensor {
        let (rows, p, c) = prompts.size3().expect("prompts have three axes");
        let n = rows / windows;
        let mean = match self {
            Order::BatchMajor => prompts.reshape([n, windows, p, c]).mean_dim(1, false, None),
            Order::WindowMajor => {
                prompts.reshape([members, windows, n / members, p, c]).mean_dim(1, false, None)
            }
        };
        mean.reshape([n, p, c])
    }
}

/// Positions a and b of a window are (Δrow, Δcolumn) apart; the table has a row for each difference.
fn offsets(window: i64) -> Tensor {
    let position = |i: i64| (i / window, i % window);
    let positions = window * window;
    let rows: Vec<i64> = (0..positions)
        .flat_map(|a| (0..positions).map(move |b| (position(a), position(b))))
        .map(|((ar, ac), (br, bc))| (ar - br + window - 1) * (2 * window - 1) + ac - bc + window - 1)
        .collect();
    Tensor::from_slice(&rows)
}

/// Rolling the grid brings regions into one window that are no neighbours: only equal regions see each other.
fn mask(side: i64, window: i64) -> Tensor {
    let bands: Vec<i64> = (0..side)
        .map(|i| match i {
            i if i < side - window => 0,
            i if i < side - window / 2 => 1,
            _ => 2,
        })
        .collect();
    let bands = Tensor::from_slice(&bands);
    let regions = bands.unsqueeze(1) * 3 + &bands; // [R, R]
    let (g, w) = (side / window, window);
    let regions = regions.reshape([g, w, g, w]).transpose(1, 2).reshape([g * g, w * w]);
    let apart = regions.unsqueeze(1).not_equal_tensor(&regions.unsqueeze(2)); // [W, w², w²]
    (apart.to_kind(Kind::Double) * -100.0).unsqueeze(1)
}
