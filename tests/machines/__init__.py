"""EC2 in a box: real systemd machines behind the emulated EC2, on one Linux machine."""
