//! Benchmarks whose tables end in means over tasks: VTAB-1k and FGVC. Pure.
//!
//! Two means of VTAB are in use, of the three group means and of the 19 tasks; both are shown, under their names. A mean
//! over some of a group's tasks is none: it compares with nothing.

use super::statistics::Summary;

/// Tasks of a benchmark that are averaged together, by their usual folder names.
#[derive(Debug)]
struct Group {
    name: &'static str,
    /// What the tasks' names begin with.
    prefix: &'static str,
    tasks: &'static [&'static str],
}

const NATURAL: Group = Group {
    name: "Natural",
    prefix: "vtab",
    tasks: &["caltech101", "cifar", "dtd", "oxford_flowers102", "oxford_iiit_pet", "sun397", "svhn"],
};
const SPECIALIZED: Group = Group {
    name: "Specialized",
    prefix: "vtab",
    tasks: &["diabetic_retinopathy", "eurosat", "patch_camelyon", "resisc45"],
};
const STRUCTURED: Group = Group {
    name: "Structured",
    prefix: "vtab",
    tasks: &[
        "clevr_count",
        "clevr_dist",
        "dmlab",
        "dsprites_loc",
        "dsprites_ori",
        "kitti",
        "smallnorb_azi",
        "smallnorb_ele",
    ],
};
const VTAB: [Group; 3] = [NATURAL, SPECIALIZED, STRUCTURED];
const FGVC: Group = Group {
    name: FGVC_MEAN,
    prefix: "fgvc",
    tasks: &["cub", "nabirds", "oxford_flowers", "stanford_cars", "stanford_dogs"],
};
pub(crate) const MEAN_OF_GROUPS: &str = "mean of 3 groups";
pub(crate) const FGVC_MEAN: &str = "FGVC mean of 5 tasks";
pub(crate) const MEAN_OF_TASKS: &str = "mean of 19 tasks";

/// Other spellings of the tasks, as [`plain`] writes them.
const ALIASES: &[(&str, &str)] = &[
    ("cifar100", "cifar"),
    ("flowers102", "oxfordflowers102"),
    ("pets", "oxfordiiitpet"),
    ("oxfordpets", "oxfordiiitpet"),
    ("camelyon", "patchcamelyon"),
    ("retinopathy", "diabeticretinopathy"),
    ("clevrdistance", "clevrdist"),
    ("dsprloc", "dspritesloc"),
    ("dsprori", "dspritesori"),
    ("snorbazi", "smallnorbazi"),
    ("snorbele", "smallnorbele"),
    ("cub200", "cub"),
    ("cub2002011", "cub"),
];

/// A name without case, punctuation and folder: `vtab/Oxford_Flowers102` and `oxford-flowers102` are the same.
pub(crate) fn plain(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let text: String = last.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let alias = ALIASES.iter().find(|(theirs, _)| *theirs == text);
    alias.map_or(text, |(_, ours)| (*ours).to_owned())
}

/// A mean over tasks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mean {
    pub(crate) name: &'static str,
    /// Indices into the given tasks, with their weights.
    pub(crate) parts: Vec<(usize, f64)>,
}

impl Mean {
    /// The mean of what the tasks have; none where one of them has nothing.
    pub(crate) fn of(&self, values: &[Option<Summary>]) -> Option<Summary> {
        let part = |(index, weight): &(usize, f64)| Some((*weight, values.get(*index).copied()??));
        Summary::weighted(&self.parts.iter().map(part).collect::<Option<Vec<_>>>()?)
    }
}

/// The means that these tasks are complete for, in the order of the papers' tables.
pub(crate) fn means(tasks: &[&str]) -> Vec<Mean> {
    let groups: Vec<Option<Mean>> = VTAB.iter().map(|group| group.mean(tasks)).collect();
    let mut means: Vec<Mean> = groups.iter().flatten().cloned().collect();
    if let Some(groups) = groups.into_iter().collect::<Option<Vec<_>>>() {
        let third = groups.iter().flat_map(|mean| &mean.parts).map(|(index, weight)| (*index, weight / 3.0));
        means.push(Mean { name: MEAN_OF_GROUPS, parts: third.collect() });
        let all: Vec<usize> = groups.iter().flat_map(|mean| &mean.parts).map(|(index, _)| *index).collect();
        let weight = 1.0 / all.len() as f64;
        means.push(Mean { name: MEAN_OF_TASKS, parts: all.into_iter().map(|i| (i, weight)).collect() });
    }
    means.extend(FGVC.mean(tasks));
    means
}

impl Group {
    fn mean(&self, tasks: &[&str]) -> Option<Mean> {
        let weight = 1.0 / self.tasks.len() as f64;
        let index = |wanted: &&str| {
            let is_it = |task: &&str| task.starts_with(self.prefix) && plain(task) == plain(wanted);
            tasks.iter().position(is_it).map(|index| (index, weight))
        };
        let parts = self.tasks.iter().map(index).collect::<Option<Vec<_>>>()?;
        Some(Mean { name: self.name, parts })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The tasks of VTAB-1k as sweeps name them.
    pub(crate) fn vtab() -> Vec<String> {
        VTAB.iter().flat_map(|group| group.tasks).map(|task| format!("vtab/{task}")).collect()
    }

    #[test]
    fn both_means_of_vtab() {
        let tasks = vtab();
        let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
        assert_eq!(tasks.len(), 19);
        let means = means(&tasks);
        let names: Vec<&str> = means.iter().map(|mean| mean.name).collect();
        assert_eq!(names, ["Natural", "Specialized", "Structured", MEAN_OF_GROUPS, MEAN_OF_TASKS]);
        // 7 · 80, 4 · 90, 8 · 40
        let value = |index| {
            let mean = if index < 7 {
                80.0
            } else if index < 11 {
                90.0
            } else {
                40.0
            };
            Some(Summary { mean, std: Some(1.0), ci95: Some(1.0), n: 5 })
        };
        let values: Vec<_> = (0..19).map(value).collect();
        let found: Vec<f64> = means.iter().map(|mean| mean.of(&values).expect("complete").mean).collect();
        let expected = [80.0, 90.0, 40.0, 70.0, (7.0 * 80.0 + 4.0 * 90.0 + 8.0 * 40.0) / 19.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        let mut holed = values;
        holed[0] = None;
        assert_eq!(means[0].of(&holed), None);
        assert!(means[1].of(&holed).is_some());
        assert_eq!(means[4].of(&holed), None);
    }

    #[test]
    fn incomplete_groups_and_other_benchmarks_have_no_mean() {
        assert!(means(&["vtab/dtd", "vtab/cifar"]).is_empty());
        assert!(means(&["digits", "elpv/type"]).is_empty());
        let specialized = ["vtab/retinopathy", "vtab/eurosat", "vtab/camelyon", "vtab/resisc45", "vtab/dtd"];
        assert_eq!(means(&specialized).iter().map(|mean| mean.name).collect::<Vec<_>>(), ["Specialized"]);
        let elsewhere = specialized.map(|task| task.replace("vtab/", "mine/"));
        assert!(means(&elsewhere.each_ref().map(String::as_str)).is_empty());
        let fgvc =
            ["fgvc/CUB", "fgvc/NABirds", "fgvc/OxfordFlowers", "fgvc/StanfordCars", "fgvc/StanfordDogs"];
        assert_eq!(means(&fgvc)[0].name, "FGVC mean of 5 tasks");
    }
}
