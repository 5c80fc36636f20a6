//! Families of backbones, and which methods they can be tuned by.

use super::{
    AlsoTrain, Location, METHODS, Method, Pooling, Recipe, RecipeError, Vpt, keys, known_depth, names,
};

/// A kind of backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Plain vision transformers: ViT, MAE, MoCo v3, DINO.
    Vit,
    /// Swin transformers: attention within windows, no class token.
    Swin,
    Resnet,
    Convnext,
}

impl Family {
    pub const ALL: [Family; 4] = [Family::Vit, Family::Swin, Family::Resnet, Family::Convnext];

    /// As sidecars name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Vit => "vit",
            Family::Swin => "swin",
            Family::Resnet => "resnet",
            Family::Convnext => "convnext",
        }
    }

    /// The family that sidecars name so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The methods that can tune it.
    #[must_use]
    pub fn methods(self) -> &'static [&'static str] {
        match self {
            Family::Vit => METHODS,
            Family::Swin => {
                &["linear", "mlp_k", "partial_k", "full", "bias", "sidetune", "vpt_shallow", "vpt_deep"]
            }
            Family::Resnet | Family::Convnext => {
                &["linear", "mlp_k", "partial_k", "full", "bias", "sidetune", "vpt_shallow"]
            }
        }
    }

    /// Where `vpt_shallow` and `vpt_deep` can put prompts; further channels need an embedding that is one convolution.
    #[must_use]
    pub fn locations(self) -> &'static [Location] {
        match self {
            Family::Vit => &[
                Location::Prepend,
                Location::PrependPixel,
                Location::Add,
                Location::Add1,
                Location::Pad,
                Location::Below,
            ],
            // Images of Swin have one size, which a frame would change.
            Family::Swin => &[Location::Prepend],
            Family::Resnet => &[Location::Pad, Location::Below],
            Family::Convnext => &[Location::Pad],
        }
    }
}

impl Family {
    /// Whether `method` can tune the family, and at which locations of prompts, if it has the choice.
    #[must_use]
    pub fn capability(self, method: &str) -> Option<Vec<&'static str>> {
        let places = self.locations().iter().filter(|place| match method {
            "vpt_shallow" => true,
            "vpt_deep" => place.has_deep_form(),
            _ => false,
        });
        let names = places.map(|place| names::name_of(names::LOCATION, place));
        self.methods().contains(&method).then(|| names.collect())
    }
}

/// The family that a backbone's name tells, if it does: `swin_b`, `imagenet_resnet50`, `convnext-base`, `vit_b16_in21k`.
#[must_use]
pub fn known_family(backbone: &str) -> Option<Family> {
    let name = backbone.to_ascii_lowercase();
    let told = |part: &str| {
        name.match_indices(part).any(|(at, _)| !name[..at].ends_with(|c: char| c.is_ascii_alphanumeric()))
    };
    [Family::Swin, Family::Resnet, Family::Convnext]
        .into_iter()
        .find(|family| told(family.name()))
        .or_else(|| known_depth(backbone).map(|_| Family::Vit))
}

impl Recipe {
    /// Checks that the method can tune a backbone of this family. [`Recipe::from_settings`] does so already where the
    /// backbone's name tells its family; whoever has the weights knows better and checks again.
    ///
    /// # Errors
    /// A method that the family has no place for.
    pub fn check_family(&self, family: Family) -> Result<(), RecipeError> {
        let name = self.method.name();
        if !family.methods().contains(&name) {
            let message = format!(
                "`{name}` cannot tune `{}`, a {} backbone: {} can",
                self.backbone,
                family.name(),
                keys::list(family.methods())
            );
            return Err(RecipeError::new("method", message));
        }
        if self.setr.is_some() && family != Family::Vit {
            let message = format!(
                "`setr_pup` stands on the patches of a ViT, and `{}` is a {} backbone",
                self.backbone,
                family.name()
            );
            return Err(RecipeError::new("head", message));
        }
        match &self.method {
            Method::Vpt(vpt) => self.check_vpt(vpt, family),
            Method::Full { dropout, drop_path } if family != Family::Vit => {
                let rates = [("backbone_dropout", *dropout), ("drop_path", *drop_path)];
                rates
                    .iter()
                    .find(|(_, rate)| *rate > 0.0)
                    .map_or(Ok(()), |(key, _)| self.only_vit(key, family))
            }
            _ => Ok(()),
        }
    }

    fn only_vit(&self, key: &str, family: Family) -> Result<(), RecipeError> {
        let message =
            format!("can only be set for a ViT, and `{}` is a {} backbone", self.backbone, family.name());
        Err(RecipeError::new(key, message))
    }

    /// Prompts have to be where the family takes them, and what only a ViT has is refused elsewhere.
    fn check_vpt(&self, vpt: &Vpt, family: Family) -> Result<(), RecipeError> {
        if !family.locations().contains(&vpt.location) {
            let named = |location: &Location| names::name_of(names::LOCATION, location);
            let known: Vec<&str> = family.locations().iter().map(named).collect();
            let message = format!(
                "`{}` is no place for prompts on `{}`, a {} backbone: use {}",
                named(&vpt.location),
                self.backbone,
                family.name(),
                keys::join(&known, "or")
            );
            return Err(RecipeError::new("location", message));
        }
        if family == Family::Vit {
            return Ok(());
        }
        let deep = vpt.deep.unwrap_or_default();
        let foreign = [
            ("prompt_project", vpt.project.is_some()),
            ("prompt_init", vpt.init.is_of_classes()),
            ("train_prompts", !vpt.is_trained),
            ("pooling", vpt.pooling != Pooling::Original),
            ("shared", deep.shared),
            ("noexpand", deep.noexpand),
            ("also_train", !matches!(vpt.also_train, AlsoTrain::None | AlsoTrain::Bias)),
        ];
        match foreign.into_iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((key, _)) => self.only_vit(key, family),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_families() {
        for (name, family) in [
            ("swin_b", Family::Swin),
            ("in22k-Swin-B", Family::Swin),
            ("imagenet_resnet50", Family::Resnet),
            ("convnext_base", Family::Convnext),
            ("vit_b16_in21k", Family::Vit),
            ("mae_vit_base", Family::Vit),
        ] {
            assert_eq!(known_family(name), Some(family), "{name}");
        }
        for name in ["goodwin", "b", "tiny", "preresnetlike"] {
            assert_eq!(known_family(name), None, "{name}");
        }
    }

    #[test]
    fn a_method_without_a_place_is_refused_by_name() {
        let recipe = |backbone: &str, method: &str| {
            Recipe::from_json(&format!(
                r#"{{"backbone": "{backbone}", "task": "t", "method": "{method}", "prompt_length": 2, "lr": 1}}"#
            ))
        };
        assert!(recipe("swin_b", "vpt_deep").is_ok());
        let error = recipe("swin_b", "gated").unwrap_err().to_string();
        assert_eq!(
            error,
            "method: `gated` cannot tune `swin_b`, a swin backbone: `linear`, `mlp_k`, `partial_k`, `full`, `bias`, \
             `sidetune`, `vpt_shallow` and `vpt_deep` can"
        );
        let unknown = recipe("b", "gated").unwrap();
        assert!(unknown.check_family(Family::Vit).is_ok() && unknown.check_family(Family::Resnet).is_err());
    }

    #[test]
    fn prompts_without_a_place_are_refused_by_name() {
        let error = |backbone: &str, further: &str| {
            let json = format!(
                r#"{{"backbone": "{backbone}", "task": "t", "method": "vpt_shallow", "prompt_length": 2, "lr": 1{further}}}"#
            );
            Recipe::from_json(&json).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(error("resnet50", r#", "location": "pad""#), Ok(()));
        assert_eq!(error("resnet50", r#", "location": "below", "prompt_init": "imagenet""#), Ok(()));
        assert_eq!(
            error("resnet50", ""),
            Err("location: `prepend` is no place for prompts on `resnet50`, a resnet backbone: use `pad` or `below`"
                .into())
        );
        assert!(error("convnext_b", r#", "location": "below""#).unwrap_err().contains("use `pad`"));
        assert!(
            error("swin_b", r#", "prompt_init": "class_final""#)
                .unwrap_err()
                .contains("only be set for a ViT")
        );
        assert!(error("swin_b", r#", "location": "pad""#).unwrap_err().contains("use `prepend`"));
        assert!(error("swin_b", r#", "pooling": "image""#).unwrap_err().contains("only be set for a ViT"));
        assert_eq!(error("swin_b", r#", "also_train": "bias""#), Ok(()));
    }

    #[test]
    fn locations_are_there_for_the_methods_that_have_the_choice() {
        for family in Family::ALL {
            for method in METHODS {
                let has_choice = family.capability(method).is_some_and(|places| !places.is_empty());
                let is_vpt = method.starts_with("vpt_") && family.methods().contains(method);
                assert_eq!(has_choice, is_vpt, "{method} on {}", family.name());
            }
        }
        assert_eq!(Family::Vit.capability("vpt_deep").unwrap(), ["prepend", "add", "add_1"]);
        assert_eq!(Family::Resnet.capability("vpt_deep"), None);
    }

    #[test]
    fn every_family_names_methods_that_exist() {
        for family in Family::ALL {
            assert!(family.methods().iter().all(|method| METHODS.contains(method)), "{family:?}");
            assert!(family.methods().contains(&"linear"));
        }
    }
}
