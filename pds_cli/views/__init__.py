"""What a picture is taken from: views, regions, cameras, poses and camera paths."""
