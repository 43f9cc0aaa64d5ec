//! Certificates for tests.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

pub const NAME: &str = "carillon.test";

/// A certificate authority and a certificate signed by it, in PEM.
pub struct Files {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl Files {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("name");
        let certificate = params.signed_by(&key, &ca).expect("signed");
        Self { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate of the same key that has expired.
    pub fn ended(&self) -> String {
        let key = KeyPair::from_pem(&self.key).expect("key");
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        params.self_signed(&key).expect("signed").pem()
    }

    pub fn write(&self, folder: &Path) {
        for (name, text) in [("ca.pem", &self.ca), ("certificate.pem", &self.certificate), ("key.pem", &self.key)] {
            fs::write(folder.join(name), text).expect("written");
        }
    }
}
