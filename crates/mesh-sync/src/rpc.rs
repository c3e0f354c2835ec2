//! The gRPC service `mesh.sync.v1.Sync`, and the way to it over mesh-transport.
