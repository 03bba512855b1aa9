# SPDX-License-Identifier: GPL-2.0-only
"""The ksplice command and its verbs.

::

    main          finds the module of the verb, and turns errors into messages and exit status
    create        create               build a bundle from a patch
    objdiff       objdiff              compare two objects
    config        config               fill the folder that create needs
    try_          try                  apply and undo an update in a guest
    change        apply, undo, release, remove
    doctor        doctor, by doctor_kernel and doctor_host, which make a list of finding
    several       apply --all, undo --all
    show          list, view, history
    status        status, and ksplice alone
    keys          keygen, sign, verify
    client        the daemon, as the verbs call it
    verbs         the table of verbs, for help and messages
    parser        the parser, and what it says about wrong usage
    arguments     arguments that several verbs take
    bundle_files  bundles as files and folders
    glance        the host at one glance, made from the document of status
    health        how well a host is, and the lines of a monitoring plugin
    terminal      width, colours and columns
    times         times for people
    format        the service's answers as JSON documents and as lines
    output        what is printed, and files that are written whole

Nothing here decides: building is ``ksplicd.create``, applying is the daemon's part.
"""
