//! Which encodings of curve points are let in at all.
//!
//! A signature holds two points: the author's key (A) and the commitment (R). Libraries differ in what they make
//! of points of small order and of encodings that are not the only one of their point, and so do a single and a
//! batch check. In a mesh that means replicas that never agree. Both are refused here, before any check, by
//! looking at the bytes alone. See ZIP 215, and Chalkias, Garillot, Nikolaenko: *Taming the many EdDSAs* (2020).

/// Why an encoding of a point is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// It is not the one encoding of its point.
    #[error("it is not in its canonical encoding")]
    NonCanonical,
    /// It is one of the eight points whose order divides 8. No key is one of them.
    #[error("it is a point of small order")]
    SmallOrder,
}

/// 2^255 - 19, little endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// The y coordinates of the eight points of small order, little endian: 1, -1, 0, and the two of order 8.
pub(super) const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = P;
        minus_one[0] -= 1;
        minus_one
    },
    [0; 32],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Lets an encoding through if it is canonical and not of small order. Whether it is on the curve is found out
/// when it is used.
///
/// The only non-canonical encodings with a y below p are those of x = 0 with the sign set, which have y = 1 or -1
/// and so are among those of small order.
pub(super) fn check(encoding: &[u8; 32]) -> Result<(), PointError> {
    let mut y = *encoding;
    y[31] &= 0x7f;
    if y.iter().rev().ge(P.iter().rev()) {
        return Err(PointError::NonCanonical);
    }
    if SMALL_ORDER_Y.contains(&y) { Err(PointError::SmallOrder) } else { Ok(()) }
}
