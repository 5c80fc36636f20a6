use std::fs;

use image::{Luma, Rgb};
use tempfile::TempDir;

use super::*;

/// Images `a` (2×2) and `b` (3×2), whose pixel and label follow from x and y.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, width) in [("a", 2), ("b", 3)] {
        let grey = |x: u32, y: u32| (x + 2 * y) as u8;
        let image = RgbImage::from_fn(width, 2, |x, y| Rgb([10 * grey(x, y), 0, 255]));
        image.save(folder.path().join(format!("{name}.png"))).unwrap();
        write(&folder, name, &GrayImage::from_fn(width, 2, |x, y| Luma([(x + y) as u8])));
    }
    list(&folder, "a.png a.map.png\nb.png b.map.png\n");
    folder
}

fn write(folder: &TempDir, name: &str, map: &GrayImage) {
    map.save(folder.path().join(format!("{name}.map.png"))).unwrap();
}

fn list(folder: &TempDir, lines: &str) {
    fs::write(folder.path().join("train.txt"), lines).unwrap();
}

fn open(folder: &TempDir, keep: u64) -> Result<Maps, String> {
    Maps::open(folder.path(), 3, "train", keep).map_err(|error| {
        format!("{:#}", anyhow::Error::from(error)).replace(&folder.path().display().to_string(), "DIR")
    })
}

#[test]
fn images_and_maps_come_by_index_kept_or_not() {
    let folder = folder();
    let (read_again, kept) = (open(&folder, 39).unwrap(), open(&folder, 40).unwrap());
    assert_eq!((read_again.is_kept(), kept.is_kept(), kept.bytes, kept.len()), (false, true, 40, 2));
    assert_eq!(
        (&read_again.sha256, &hash_maps(folder.path(), "train").unwrap()),
        (&kept.sha256, &kept.sha256)
    );
    for maps in [read_again, kept] {
        let samples = maps.read(&[1, 0, 1]).unwrap();
        assert_eq!(
            samples.iter().map(|s| s.image.size()).collect::<Vec<_>>(),
            [[3, 2, 3], [3, 2, 2], [3, 2, 3]]
        );
        assert_eq!(samples[0].image.double_value(&[0, 1, 2]), 40.0);
        let labels = Tensor::from_slice(&[IGNORED, 0, 1, 0, 1, 2]).reshape([2, 3]);
        assert!(samples[0].labels.equal(&labels) && samples[2].labels.equal(&labels));
    }
}

#[test]
fn a_bad_file_is_named_with_its_line() {
    let folder = folder();
    write(&folder, "b", &GrayImage::from_pixel(3, 2, Luma([4])));
    let says = |keep| open(&folder, keep).unwrap_err();
    assert_eq!(
        says(0),
        "DIR/train.txt line 2: the map `b.map.png` holds the label 4, but the task has 3 classes, 1 to 3"
    );
    write(&folder, "b", &GrayImage::new(2, 3));
    assert_eq!(says(0), "DIR/train.txt line 2: the map `b.map.png` is 2×3, its image is 3×2");
    RgbImage::new(3, 2).save(folder.path().join("b.map.png")).unwrap();
    assert!(
        says(0)
            .starts_with("DIR/train.txt line 2: `b.map.png` is no map of one 8-bit number a pixel, but Rgb8")
    );
    fs::write(folder.path().join("b.map.png"), "no image").unwrap();
    assert!(says(0).starts_with("DIR/train.txt line 2: cannot decode the image `b.map.png`"));
    fs::remove_file(folder.path().join("b.map.png")).unwrap();
    assert_eq!(says(0), "DIR/train.txt line 2: the image `b.map.png` does not exist");
    list(&folder, "a.png\n");
    assert_eq!(
        says(0),
        "DIR/train.txt line 1: `a.png` is not an image's path, a space and the path of its label map"
    );
    list(&folder, "a.png ../a.map.png\n");
    assert_eq!(says(0), "DIR/train.txt line 1: `../a.map.png` leaves the data set's folder");
    list(&folder, "a.png a.map.png\n");
    write(&folder, "a", &GrayImage::new(2, 2));
    assert_eq!(says(0), "no pixel of the maps that DIR/train.txt names is labelled: all are 0");
}

#[test]
fn a_file_that_changes_later_is_noticed_when_it_is_read() {
    let folder = folder();
    let (read_again, kept) = (open(&folder, 0).unwrap(), open(&folder, 40).unwrap());
    write(&folder, "a", &GrayImage::from_pixel(2, 2, Luma([9])));
    assert!(read_again.read(&[1]).is_ok() && kept.read(&[0]).is_ok());
    let error = anyhow::Error::from(read_again.read(&[0]).unwrap_err());
    assert!(format!("{error:#}").contains("holds the label 9"), "{error:#}");
    assert_ne!(open(&folder, 0).map(|maps| maps.sha256), Ok(kept.sha256));
}
