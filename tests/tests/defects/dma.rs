//! DMA.

defects! {}
