//! Folders on disk, good and bad, through [`load`].

use std::fs;

use tempfile::TempDir;

use super::*;

const PNG: &[u8] = include_bytes!("golden/rgb_37x23.png");
const GREY: &[u8] = include_bytes!("golden/grey_8x8.png");
const JPEG: &[u8] = include_bytes!("golden/jpeg_40x30.jpg");

fn folder(labels: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("images")).expect("a folder");
    for (name, bytes) in [("a.png", PNG), ("b.png", GREY), ("c.jpg", JPEG), ("cut.png", &PNG[..900])] {
        fs::write(folder.path().join("images").join(name), bytes).expect("a file");
    }
    fs::write(folder.path().join("train.txt"), labels).expect("a file");
    folder
}

fn load_train(folder: &TempDir) -> Result<Split, DataError> {
    load(folder.path(), 10, "train", Preprocessing::Noah, 8)
}

/// The error and its causes, the temporary folder's name left out.
fn complaint(folder: &TempDir, result: Result<Split, DataError>) -> String {
    let error = result.expect_err("an error");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.replace(&folder.path().display().to_string(), "DIR")
}

fn bytes(images: &Tensor) -> Vec<u8> {
    Vec::try_from(images.flatten(0, -1)).expect("bytes")
}

#[test]
fn images_and_labels_come_in_the_files_order() {
    let lines: String =
        (0..40).map(|i| format!("images/{} {}\n", ["a.png", "b.png", "c.jpg"][i % 3], i % 10)).collect();
    let split = load_train(&folder(&lines)).expect("a good split");
    assert_eq!(split.images.size(), [40, 3, 8, 8]);
    assert_eq!(split.images.kind(), Kind::Uint8);
    assert_eq!(
        Vec::<i64>::try_from(&split.labels).expect("labels"),
        (0..40).map(|i| i % 10).collect::<Vec<_>>()
    );

    let single =
        |name: &str| bytes(&load_train(&folder(&format!("images/{name} 0\n"))).expect("a good split").images);
    let expected: Vec<_> = ["a.png", "b.png", "c.jpg"].map(single).into();
    for i in 0..40 {
        assert_eq!(bytes(&split.images.get(i)), expected[i as usize % 3], "image {i}");
    }
    // A grey image of the right size is the file's bytes, three times.
    let grey = image::load_from_memory(GREY).expect("an image").into_luma8();
    assert_eq!(expected[1], grey.as_raw().repeat(3));
}

/// The two decoders agree within rounding, except that the colour (at half the size) of the last row and column is
/// interpolated with what lies beyond the image where a side is no multiple of 16.
#[test]
fn a_jpeg_is_decoded_as_pillow_does() {
    let theirs = include_bytes!("golden/jpeg_40x30.decoded.u8");
    let image = image::load_from_memory(JPEG).expect("an image").into_rgb8();
    let off = |(x, y, c): (u32, u32, usize)| {
        let theirs = theirs[c * 40 * 30 + y as usize * 40 + x as usize];
        image.get_pixel(x, y).0[c].abs_diff(theirs)
    };
    let inside = (0..39).flat_map(|x| (0..29).flat_map(move |y| (0..3).map(move |c| (x, y, c))));
    assert!(inside.map(off).all(|d| d <= 3));
    let edge = (0..30).map(|y| (39, y)).chain((0..40).map(|x| (x, 29)));
    assert!(edge.flat_map(|(x, y)| (0..3).map(move |c| (x, y, c))).map(off).all(|d| d <= 40));
}

#[test]
fn the_hash_follows_content_and_labels_but_not_names() {
    let hash = |labels: &str| load_train(&folder(labels)).expect("a good split").sha256;
    let base = hash("images/a.png 1\nimages/b.png 2\n");
    assert_eq!(base.len(), 64);
    assert_eq!(base, hash("./images/a.png 1\r\n\r\nimages/b.png 2"));
    assert_ne!(base, hash("images/a.png 1\nimages/b.png 3\n"));
    assert_ne!(base, hash("images/b.png 2\nimages/a.png 1\n"));
    assert_ne!(base, hash("images/a.png 1\nimages/c.jpg 2\n"));
}

#[test]
fn normalising_leaves_the_cache_as_it_is() {
    let split = load_train(&folder("images/a.png 1\nimages/b.png 2\n")).expect("a good split");
    let before = bytes(&split.images);
    let once = normalise(&split.images.narrow(0, 0, 1), Normalization::Imagenet);
    let again = normalise(&split.images.narrow(0, 0, 1), Normalization::Imagenet);
    assert_eq!(bytes(&split.images), before);
    assert_eq!(once, again);
    assert_eq!((once.kind(), once.size()), (Kind::Float, vec![1, 3, 8, 8]));
}

#[test]
fn normalisations_are_per_channel() {
    let image = Tensor::from_slice(&[0_u8, 128, 255]).view([1, 3, 1, 1]);
    let close = |normalization, expected: [f64; 3]| {
        let values = Vec::<f32>::try_from(normalise(&image, normalization).flatten(0, -1)).expect("floats");
        assert!(
            values.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5),
            "{values:?} {expected:?}"
        );
    };
    let grey = 128.0 / 255.0;
    close(Normalization::None, [0.0, grey, 1.0]);
    close(Normalization::Inception, [-1.0, grey * 2.0 - 1.0, 1.0]);
    close(Normalization::Imagenet, [-0.485 / 0.229, (grey - 0.456) / 0.224, (1.0 - 0.406) / 0.225]);
}

#[test]
fn what_is_missing_is_named_with_what_is_there() {
    let dir = folder("images/a.png 1\n");
    fs::write(dir.path().join("val.txt"), "").expect("a file");
    let named = |folder: &Path, split: &str| load(folder, 10, split, Preprocessing::Noah, 8);
    assert_eq!(splits(dir.path()).expect("a folder"), ["train", "val"]);

    let nowhere = named(&dir.path().join("nope"), "train");
    assert!(nowhere.as_ref().is_err_and(DataError::is_missing));
    assert_eq!(complaint(&dir, nowhere), "the data set folder DIR/nope does not exist");
    let no_split = named(dir.path(), "test");
    assert!(no_split.as_ref().is_err_and(DataError::is_missing));
    assert_eq!(complaint(&dir, no_split), "no split `test` in DIR; it has train, val");
    assert!(named(dir.path(), "../train").is_err_and(|e| matches!(e, DataError::SplitName { .. })));
    let empty = named(dir.path(), "val");
    assert!(empty.as_ref().is_err_and(|e| !e.is_missing()));
    assert_eq!(
        complaint(&dir, empty),
        "DIR/val.txt names no images; each line is an image's path, a space and its label"
    );
}

#[test]
fn the_first_bad_line_is_named() {
    for (labels, expected) in [
        ("images/a.png 1\n\nimages/a.png\n", "DIR/train.txt line 3: `images/a.png` is not"),
        ("images/a.png 1\nimages/a.png 10\n", "DIR/train.txt line 2: the label 10 is outside of 0..10"),
        ("images/a.png 1\nimages/z.png 1\n", "DIR/train.txt line 2: the image `images/z.png` does not exist"),
        ("images/cut.png 1\n", "DIR/train.txt line 1: cannot decode the image `images/cut.png`: "),
        ("train.txt 1\n", "DIR/train.txt line 1: cannot decode the image `train.txt`: "),
        ("images 1\n", "DIR/train.txt line 1: cannot read the image `images`: "),
    ] {
        let dir = folder(labels);
        let result = load_train(&dir);
        assert!(result.as_ref().is_err_and(|e| !e.is_missing() && !e.is_out_of_memory()));
        let complaint = complaint(&dir, result);
        assert!(complaint.starts_with(expected), "{complaint}");
    }
    let many = "images/a.png 1\n".repeat(30) + &"images/cut.png 1\n".repeat(30);
    let dir = folder(&many);
    assert!(complaint(&dir, load_train(&dir)).starts_with("DIR/train.txt line 31: "));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused() {
    let outside = tempfile::tempdir().expect("a temporary folder");
    fs::write(outside.path().join("x.png"), PNG).expect("a file");
    let dir = folder("images/inside.png 1\nimages/link.png 1\n");
    let images = dir.path().join("images");
    std::os::unix::fs::symlink(images.join("a.png"), images.join("inside.png")).expect("a link");
    std::os::unix::fs::symlink(outside.path().join("x.png"), images.join("link.png")).expect("a link");
    let expected = "DIR/train.txt line 2: `images/link.png` leaves the data set's folder";
    assert_eq!(complaint(&dir, load_train(&dir)), expected);
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_taken() {
    let dir = folder("images/bomb.png 1\n");
    // PNG headers that claim sides too long, or too many pixels within the sides; the checksum of the header is right.
    for (width, height) in [(20_000_u32, 1_u32), (1, 20_000), (12_000, 12_000)] {
        let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bomb.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
        bomb.extend(b"\x08\x02\0\0\0");
        bomb.extend(crc32(&bomb[12..]).to_be_bytes());
        bomb.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        fs::write(dir.path().join("images/bomb.png"), bomb).expect("a file");
        let error = load_train(&dir).expect_err("an error");
        let DataError::Line { source: LineError::Decode { source, .. }, .. } = error else {
            panic!("{error}")
        };
        assert!(matches!(source, image::ImageError::Limits(_)), "{width}x{height}: {source}");
    }

    for size in [0, -8, LARGEST_IMAGE_SIZE + 1] {
        let result = load(dir.path(), 10, "train", Preprocessing::Noah, size);
        assert!(result.is_err_and(|e| matches!(e, DataError::ImageSize { .. })));
    }
    assert_eq!(cache_bytes(10, 4, 480).ok(), Some(480));
    let error = cache_bytes(10, 4, 479).expect_err("one byte too many");
    assert!(error.is_out_of_memory());
    assert!(
        error.to_string().starts_with("10 images of 4x4 take 480 bytes, and 479 bytes of memory are free")
    );
    assert!(cache_bytes(usize::MAX, LARGEST_IMAGE_SIZE, u64::MAX).is_err());
}

#[test]
fn free_memory_is_read_from_the_kernels_table() {
    assert_eq!(available("MemTotal:  9 kB\nMemAvailable:   12 kB\n"), Some(12 * 1024));
    assert_eq!(available("MemTotal: 9 kB\n"), None);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}
