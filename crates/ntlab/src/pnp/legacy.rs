//! Drivers without PnP: they make their devices in DriverEntry.

use super::{spec::DriverPackage, worker};
use crate::{
    io::driver::{self, LoadError},
    machine::System,
};

impl System {
    /// Starts a driver on its own and not for a device, as the service control manager does. [`System::unload`] stops it.
    ///
    /// # Errors
    ///
    /// Why it could not be loaded; nothing is left of it then.
    pub fn load(&self, package: DriverPackage) -> Result<(), LoadError> {
        worker::run(&self.kernel, "service start", move |k| {
            let DriverPackage { service, image, parameters, .. } = package;
            let parameters: Vec<_> = parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let driver = driver::load(k, &image, &service, &parameters)?;
            k.pnp.set_loaded(&service, Some(driver));
            Ok(())
        })
    }
}
