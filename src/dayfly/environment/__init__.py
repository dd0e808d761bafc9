"""The same Python and the same packages on the VMs as on the client.

The road of an environment::

    capture    what this interpreter has installed           (client)
    resolve    from exact pins to wheels for the VM          (client, by uv; before any launch)
    repack     what no index has, from where it is installed (client)
    needs      which of what is missing a job would miss     (client)
    lock       the result: every file by its hash            (a value; kept in storage by its key)
    kit        from files to an interpreter with packages    (VM; the standard library only)
    program    the kit as one file

``order`` is what the kit is told, and ``report`` what it says. ``pythons`` has the Python itself,
where the VMs' image lacks it; ``system`` the packages of apt-get. ``requirements`` goes in place of
``capture``: the user's own file. ``indexes``, ``uv``, ``refusals`` and ``wheels`` serve these:
where packages are looked for, the child process, which pins it cannot do, the choice of wheels.
"""
