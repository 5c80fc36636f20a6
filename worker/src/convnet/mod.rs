//! Convolutional backbones: ResNet and ConvNeXt. Prompts meet them in the image alone, so blocks have no hook sites.

pub mod convnext;
mod layers;
pub mod resnet;
#[cfg(test)]
mod tests;

pub use convnext::Convnext;
pub use resnet::Resnet;
