"""Image metrics: PSNR, SSIM and LPIPS, each one value an image; CLIP; view consistency."""
