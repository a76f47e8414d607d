def check_alignment(*a):
    pass
